"""tunebench: which way of adapting a language model should I use?

Data flows one way: suite -> plan -> execute -> worker -> store -> analysis -> report.
Importing this package loads nothing heavy; torch is only ever loaded in a worker.
"""

__version__ = "0.1.0"
