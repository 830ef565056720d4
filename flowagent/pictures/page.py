"""A picture and its table on one page, without script, and as PNG."""

from __future__ import annotations

from collections.abc import Iterator

from flowagent.errors import ConfigError
from flowagent.pictures import svg
from flowagent.pictures.frame import Style, footnote, instant, subtitle, title, words
from flowagent.shown import ARROW, Answer, amount, error_text

_STYLE = """
body {{ font-family: {font}; background: {background}; color: {ink}; margin: 2rem auto; max-width: 1040px; }}
svg {{ max-width: 100%; height: auto; }}
table {{ border-collapse: collapse; margin: 1.5rem 24px; font-size: .9rem; }}
caption {{ text-align: left; font-weight: bold; padding-bottom: .5rem; }}
th, td {{ padding: .25rem .9rem .25rem 0; border-bottom: 1px solid {line}; text-align: left; }}
td.n, th.n {{ text-align: right; font-variant-numeric: tabular-nums; }}
tfoot td {{ font-weight: bold; }}
"""


def html(answer: Answer, picture: str, style: Style) -> str:
    """One file with the picture and all its numbers in tables."""
    theme = style.theme
    css = _STYLE.format(font=svg.FONT, background=theme.background, ink=theme.ink, line=theme.line)
    said = svg.plain(title(answer, style))
    tables = [_table(answer)] + ([_series(answer)] if answer.times else [])
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{said}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{css}</style>\n</head>\n<body>\n'
        f'<main>\n<figure style="margin: 0">{picture}</figure>\n' + "\n".join(tables) + "\n</main>\n</body>\n</html>\n"
    )


def _table(answer: Answer) -> str:
    heads = [svg.tag("th", svg.plain(words(d.column)), scope="col") for d in answer.dimensions]
    heads += [svg.tag("th", svg.plain(name), scope="col", class_="n") for name in (answer.unit, "±", "share", "rate")]
    rows = [
        svg.tag(
            "tr",
            *(svg.tag("td", svg.plain(label)) for label in answer.labels(row)),
            *_numbers(answer, row.value, row.error),
        )
        for row in answer.rows
    ]
    whole = [svg.tag("td", "total" if not i else "\u00a0") for i in range(len(answer.dimensions))]
    foot = svg.tag("tr", *whole, *_numbers(answer, answer.total.value, answer.total.error))
    caption = svg.tag("caption", svg.plain(f"{subtitle(answer)}. {footnote(answer)}"))
    return svg.tag(
        "table",
        caption,
        svg.tag("thead", svg.tag("tr", *heads)),
        svg.tag("tbody", *rows or [" "]),
        svg.tag("tfoot", foot),
    )


def _numbers(answer: Answer, value: float, error: float) -> Iterator[str]:
    share = f"{100 * value / answer.total.value:.1f} %" if answer.total.value else ""
    rate = amount(value / answer.seconds, answer.unit, per_second=True)
    for said in (f"{value:,.0f}", error_text(value, error).removeprefix("± "), share, rate):
        yield svg.tag("td", svg.plain(said) or " ", class_="n")


def _series(answer: Answer) -> str:
    """Times down, rows across."""
    names = [ARROW.join(answer.labels(row)) or "all" for row in answer.rows]
    heads = [svg.tag("th", "time (UTC)", scope="col")]
    heads += [svg.tag("th", svg.plain(name), scope="col", class_="n") for name in names]
    rows = []
    for i, time in enumerate(answer.times or []):
        cells = [svg.tag("td", svg.plain(f"{(row.series or [])[i]:,.0f}"), class_="n") for row in answer.rows]
        rows.append(svg.tag("tr", svg.tag("td", svg.plain(instant(time))), *cells))
    caption = svg.tag("caption", svg.plain(f"{answer.unit} in each {answer.step or 0:g} s"))
    return svg.tag("table", caption, svg.tag("thead", svg.tag("tr", *heads)), svg.tag("tbody", *rows))


def png(picture: str, scale: float = 2.0) -> bytes:
    """The picture in pixels; raises ConfigError where the package for it is not installed."""
    try:
        import cairosvg  # type: ignore[import-untyped]
    except (ImportError, OSError) as error:  # OSError: the package is there, the library it needs is not
        problem = f"PNG needs CairoSVG ({error}); install flowagent[png] and the library cairo, or write .svg or .html"
        raise ConfigError("--output", problem) from error
    drawn: bytes = cairosvg.svg2png(bytestring=picture.encode(), scale=scale)
    return drawn
