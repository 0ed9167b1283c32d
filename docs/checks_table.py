"""Print the table of docs/checks.md from the product's own: python docs/checks_table.py"""

from embsync.checks import CHECKS
from embsync.limits import Limit, Relative


def limit(value: Limit | Relative) -> str:
    """Return a limit in words."""
    if isinstance(value, tuple):
        return f"{value[0]:.3g} to {value[1]:.3g}"
    return "" if value is None else str(value) if isinstance(value, Relative) else f"{value:g}"


def table() -> str:
    """Return the Markdown table; checks of both sides stand in one line."""
    lines = [
        "| check | wrong when | warns | refuses | measures | a refusal most likely means |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for check in CHECKS.values():
        if check.name.endswith("_users"):
            continue
        wrong = {"floor": "below", "ceiling": "above", "range": "outside"}[check.kind]
        both = check.name.endswith("_items")
        name = f"`{check.name}`, `_users`" if both else f"`{check.name}`"
        refuses = limit(check.refuse) if check.acceptable else "always: ill-formed, exit 3"
        lines.append(f"| {name} | {wrong} | {limit(check.warn)} | {refuses} | {check.measures} | {check.means} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
