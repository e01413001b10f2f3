"""Figures as people read them: three digits and the unit that fits."""

DECIMAL = ("", "k", "M", "G", "T", "P", "E")
BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi")
DIGITS = 999.5  # from which on three digits are the next unit's
TENS = (9.995, 99.95)  # from which on a figure has one, or two, more places before its point


def counted(number: float, unit: str) -> str:
    """Operations, operations or bytes a second: "2.31 GFLOP", "989 TFLOP/s"."""
    return _scaled(number, 1000, DECIMAL, unit)


def sized(number: float) -> str:
    """Bytes of memory and files: "512 B", "1.50 GiB"."""
    return _scaled(number, 1024, BINARY, "B")


def _scaled(number: float, base: int, prefixes: tuple[str, ...], unit: str) -> str:
    power = 0
    while abs(number) >= DIGITS and power < len(prefixes) - 1:
        number, power = number / base, power + 1
    digits = 0 if power == 0 and number == int(number) else 2 - sum(abs(number) >= n for n in TENS)
    return f"{number:.{digits}f} {prefixes[power]}{unit}"
