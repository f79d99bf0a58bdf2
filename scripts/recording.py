#!/usr/bin/env python3
"""Records what a command prints, with its times, as an animated SVG. Equal output at equal times gives equal bytes.

Usage: recording.py FILE.svg PROMPT COMMAND [ARGUMENT]...
       for example: recording.py docs/pictures/demo.svg "make demo" target/quick/batchfleet demo

The command must print lines of text without control characters. A pause of more than two seconds is shown as two seconds.
"""

import subprocess
import sys
import time
from html import escape
from pathlib import Path

# The least width, in characters.
COLUMNS = 80
# Pixels of a character and of a margin.
WIDTH, HEIGHT, MARGIN = 8, 18, 16
LONGEST_PAUSE = 2.0
# Seconds that the complete output stays before the animation begins again.
REST = 8.0
# Shades of a digit's pixels, drawn as rectangles because fonts leave gaps between lines.
SHADES = {"░": 0.25, "▒": 0.5, "▓": 0.75, "█": 1.0}
STYLE = """\
text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#d6deeb;white-space:pre}
path{fill:#d6deeb}
.prompt{fill:#7fdbca}
@media(prefers-reduced-motion:no-preference){g{animation:TOTALs step-end infinite}}
"""


def record(command: list[str]) -> list[tuple[float, str]]:
    """Runs a command; returns its lines, each with the seconds from the start, long pauses shortened."""
    lines, shown, last = [], 0.0, time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            now = time.monotonic()
            shown, last = shown + min(now - last, LONGEST_PAUSE), now
            lines.append((round(shown, 1), line.rstrip()))
    if process.returncode:
        sys.exit(f"{command[0]} ended with status {process.returncode}")
    return lines


def drawn(line: str, row: int) -> str:
    """Returns one line of the terminal: its text, and a rectangle for each run of equal shades."""
    top = MARGIN + row * HEIGHT
    text = "".join(" " if character in SHADES else character for character in line).rstrip()
    words = ""
    if text:
        style = ' class="prompt"' if row == 0 else ""
        words = f'<text{style} x="{MARGIN}" y="{top + 14}" textLength="{len(text) * WIDTH}">{escape(text)}</text>'
    return words + "".join(
        f'<path opacity="{opacity:g}" d="{path}"/>'
        for shade, opacity in SHADES.items() if (path := rectangles(line, shade, top)))


def rectangles(line: str, shade: str, top: int) -> str:
    path, column = "", 0
    while column < len(line):
        end = column
        while end < len(line) and line[end] == shade:
            end += 1
        if end > column:
            path += f"M{MARGIN + column * WIDTH} {top}h{(end - column) * WIDTH}v{HEIGHT}h-{(end - column) * WIDTH}z"
        column = end + 1
    return path


def svg(prompt: str, lines: list[tuple[float, str]]) -> str:
    """Returns the picture. Lines of one moment are one group, which is hidden until that moment of each round."""
    rows = [(0.0, f"$ {prompt}"), *((1.0 + at, line) for at, line in lines)]
    total = rows[-1][0] + REST
    moments = sorted({at for at, _ in rows})
    style, groups = STYLE.replace("TOTAL", f"{total:g}"), ""
    for number, moment in enumerate(moments):
        if moment:
            style += f"@keyframes m{number}{{0%{{opacity:0}}{100 * moment / total:.2f}%{{opacity:1}}}}\n"
        name = f' style="animation-name:m{number}"' if moment else ""
        content = "".join(drawn(line, row) for row, (at, line) in enumerate(rows) if at == moment)
        groups += f"<g{name}>{content}</g>\n"
    columns = max(COLUMNS, *(len(line) for _, line in rows))
    width, height = 2 * MARGIN + columns * WIDTH, 2 * MARGIN + len(rows) * HEIGHT
    return (f'<svg xmlns="http://www.w3.org/2000/svg" xml:space="preserve" viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n'
            f"<title>{escape(prompt)}</title>\n<style>\n{style}</style>\n"
            f'<rect width="100%" height="100%" rx="8" fill="#011627"/>\n{groups}</svg>\n')


def main() -> None:
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    file, prompt, *command = sys.argv[1:]
    Path(file).write_text(svg(prompt, record(command)))
    print(f"wrote {file}")


if __name__ == "__main__":
    main()
