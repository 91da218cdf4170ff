"""How the report writes numbers: a true minus, thin spaces, a dash for what nobody counted."""

from service.scores import points


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def direction(value: float | None) -> str:
    text = points(value)
    return "up" if text.startswith("+") else "down" if text.startswith("−") else "same"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60) if seconds >= 3600 else int(seconds // 60)
    return (
        f"{minutes // 60} h {minutes % 60:02d} min" if seconds >= 3600 else f"{minutes} min {int(seconds % 60):02d} s"
    )


def count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}".replace(",", "\u202f")


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def figure(value: float) -> str:
    """Two decimals and a true minus."""
    text = f"{value:.2f}"
    return "0.00" if text == "-0.00" else text.replace("-", "−")
