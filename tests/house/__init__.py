"""The house that fastdiff is: floors, rooms and who may import whom, read from the sources.

``python -m tests.house [CHECKOUT]`` prints the plan as the sources have it, and what to mend;
``tests/test_house.py`` asserts it. The table of rooms stands in ``plan.py``.
"""
