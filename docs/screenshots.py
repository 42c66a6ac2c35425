#!/usr/bin/env python3
"""Makes docs/watch.svg, docs/watch-one-path.svg and docs/timeline.svg: `nvmeh watch` on a terminal while
paths are cut, and the picture of a run of the quickstart. Needs tmux; with rsvg-convert (Debian's
librsvg2-bin) it also writes them as PNG into the directory given with --png.

    cargo build --release --bins --examples -p nvme-host-examples
    docs/screenshots.py [--into DIRECTORY] [--png DIRECTORY]

To be run when the look of these programs has changed. It waits for what they show and fails where that does
not come; so a test (examples/tests/programs/screenshots.rs) runs it, too, into a directory of its own.

TARGET_DIR and PROFILE (release) say where the programs are.
"""
import argparse, html, json, os, pathlib, re, shlex, subprocess, sys, time

docs = pathlib.Path(__file__).resolve().parent
parser = argparse.ArgumentParser(description="Makes the pictures in docs.")
parser.add_argument("--into", type=pathlib.Path, default=docs, metavar="DIRECTORY")
parser.add_argument("--png", type=pathlib.Path, metavar="DIRECTORY")
arguments = parser.parse_args()
terminal = f"nvmeh-docs-{os.getpid()}"
programs = pathlib.Path(os.environ.get("TARGET_DIR", docs.parent / "target"), os.environ.get("PROFILE", "release"))
COLUMNS, ROWS, WIDE, HIGH = 150, 30, 8.0, 17.0
NAMED = ["#24292f", "#cf222e", "#2da44e", "#bf8700", "#0969da", "#8250df", "#1b7c83", "#d0d7de",
         "#6e7781", "#ff8182", "#4ac26b", "#d4a72c", "#54aeff", "#c297ff", "#76e3ea", "#ffffff"]
INK, PAPER = "#d0d7de", "#0d1117"
# How blocks fill a cell, from below: drawn, for fonts leave gaps.
BLOCKS = {c: n / 8 for n, c in enumerate(" ▁▂▃▄▅▆▇█")}


def tmux(*words):
    return subprocess.run(["tmux", "-L", terminal, *words], check=True, text=True, capture_output=True).stdout


def screen(colours=False):
    return tmux("capture-pane", "-p", "-t", "watch", *(["-e"] if colours else []))


def appears(what, limit):
    """Whether the screen shows it within so many seconds."""
    end = time.monotonic() + limit
    while not re.search(what, screen(), re.M):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def until(what, limit=60):
    if not appears(what, limit):
        sys.exit(f"`{what}` does not come:\n{screen()}")


def svg(text):
    """What a terminal shows, with its escape sequences for colours, as SVG."""
    width, height = COLUMNS * WIDE + 20, ROWS * HIGH + 20
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
           f'font-family="DejaVu Sans Mono, monospace" font-size="13.288">'
           f'<rect width="100%" height="100%" rx="6" fill="{PAPER}"/>']
    front, back, bold, reverse = INK, None, False, False
    # Shifts of the character set take no room.
    text = re.sub(r"[\x0e\x0f]|\x1b\([0B]", "", text)
    for row, line in enumerate(text.split("\n")[:ROWS]):
        column, top = 0, 10 + row * HIGH
        for part in re.split(r"(\x1b\[[0-9;]*m)", line):
            if part.startswith("\x1b["):
                codes = iter([int(c or 0) for c in part[2:-1].split(";")])
                for code in codes:
                    if code == 0: front, back, bold, reverse = INK, None, False, False
                    elif code == 1: bold = True
                    elif code == 22: bold = False
                    elif code in (38, 48) and next(codes, 0) == 5:
                        colour = NAMED[next(codes, 7) & 15]
                        if code == 38: front = colour
                        else: back = colour
                    elif code == 7: reverse = True
                    elif code == 27: reverse = False
                    elif 30 <= code <= 37: front = NAMED[code - 30]
                    elif 90 <= code <= 97: front = NAMED[code - 82]
                    elif 40 <= code <= 47: back = NAMED[code - 40]
                    elif code == 39: front = INK
                    elif code == 49: back = None
                continue
            ink, paper = (back or PAPER, front) if reverse else (front, back)
            for run in re.findall(r"[▁▂▃▄▅▆▇█]+|[^▁▂▃▄▅▆▇█]+", part):
                left, span = 10 + column * WIDE, len(run) * WIDE
                column += len(run)
                if paper:
                    out.append(f'<rect x="{left:g}" y="{top:g}" width="{span:g}" height="{HIGH:g}" fill="{paper}"/>')
                if run[0] in BLOCKS and run[0] != " ":
                    for at, c in enumerate(run):
                        high = BLOCKS[c] * HIGH
                        out.append(f'<rect x="{left + at * WIDE:g}" y="{top + HIGH - high:g}" '
                                   f'width="{WIDE:g}" height="{high:g}" fill="{ink}"/>')
                elif run.strip():
                    weight = ' font-weight="bold"' if bold else ""
                    skip = len(run) - len(run.lstrip(" "))
                    out.append(f'<text x="{left + skip * WIDE:g}" y="{top + 13:g}" fill="{ink}"{weight} xml:space="preserve" '
                               f'textLength="{len(run.strip(" ")) * WIDE:g}">{html.escape(run.strip(" "))}</text>')
    return "\n".join(out) + "\n</svg>\n"


def watch():
    target = subprocess.Popen(
        [programs / "nvmeh", "target", "--listen", "127.0.0.1:0", "127.0.0.1:0", "--ns", "64M", "--faults", "--json"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        urls = json.loads(target.stdout.readline())["urls"]
        command = [programs / "nvmeh", "watch", *urls, "--load", "--write-ok", "--ctrl-loss", "1", "--window", "20"]
        tmux("new-session", "-d", "-s", "watch", "-x", str(COLUMNS), "-y", str(ROWS), shlex.join(["env", "-u", "NO_COLOR", *map(str, command)]))

        def fault(line):
            print(line, file=target.stdin, flush=True)

        until(r"load, verified: [1-9]")
        until(r"^nvmeh watch +[6-9]\.")
        # A target that has just answered all that it had loses nothing by a cut: then it is cut again.
        for _ in range(10):
            fault("down 1")
            until("controllers without a path")
            failed_over = appears(r"failovers [1-9]", 5)
            fault("up 1")
            until(r"● +tcp.*\n.*● +tcp")
            if failed_over:
                break
        else:
            sys.exit("ten cuts of a path under load, and no request has failed over")
        fault("down 2")
        until("controllers without a path")
        time.sleep(1)
        one = screen(colours=True)
        fault("down 1")
        until(r"removal in 1[0-7]\.")
        both = screen(colours=True)
        fault("up 1")
        until("removal cancelled")
        tmux("send-keys", "-t", "watch", "q")
        return one, both
    finally:
        subprocess.run(["tmux", "-L", terminal, "kill-server"], capture_output=True)
        target.terminate()
        target.wait()


one, both = watch()
(arguments.into / "watch-one-path.svg").write_text(svg(one))
(arguments.into / "watch.svg").write_text(svg(both))
story = subprocess.run([programs / "examples/quickstart", "--json"], check=True, text=True, capture_output=True).stdout
timeline = [programs / "nvmeh", "timeline", "-", "--svg", arguments.into / "timeline.svg"]
subprocess.run(timeline, input=story, text=True, check=True)
if arguments.png:
    for name in ("watch-one-path", "watch", "timeline"):
        picture = [arguments.into / f"{name}.svg", "-o", arguments.png / f"{name}.png"]
        subprocess.run(["rsvg-convert", *picture], check=True)
