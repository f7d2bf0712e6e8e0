from harness.errors import Problem, SuiteError, unknown


def test_unknown_says_got_nearest_and_allowed() -> None:
    text = unknown("method", "lorra", ["full", "lora"])
    assert text == "unknown method 'lorra'. Did you mean 'lora'? Known: full, lora."


def test_unknown_without_a_near_name() -> None:
    assert unknown("method", "zzz", ["full"]) == "unknown method 'zzz'. Known: full."
    assert unknown("method", "zzz", []) == "unknown method 'zzz'. Known: none."


def test_long_lists_are_cut_and_counted() -> None:
    assert "… (30 in all)" in unknown("task", "x", [f"task{number}" for number in range(30)])


def test_suite_error_orders_problems_by_line() -> None:
    error = SuiteError([Problem("second", "a.yaml", 9), Problem("first", "a.yaml", 2)])
    assert str(error) == "a.yaml:2: first\na.yaml:9: second"
