"""Where results are kept: files that are the truth, and a DuckDB database made from them."""
