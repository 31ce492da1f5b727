"""A page in a real browser, in light or dark and at a width: what a script finds in it."""

import base64
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason=f"no browser is installed (one of {', '.join(NAMES)})"
)
HELD = re.compile(r'<pre id="answer">(.*?)</pre>', re.S)


def asked(page: Path, script: str, *, width: int = 1366, dark: bool = False, seconds: float = 1):
    """What `script`, the body of an async function, returns in the page, by way of JSON.

    seconds: of the page's own clock, in which the script must be done; each draws sixty frames.
    """
    told = page.read_text(encoding="utf-8")
    told = told.replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';", 1)
    if "script-src 'unsafe-inline' 'unsafe-eval'" in told:  # its own rule stays
        told = page.read_text(encoding="utf-8")
    copy = page.with_name(f"asked-{page.name}")
    asking = f"""<script>
      addEventListener("load", async () => {{
        const wait = ms => new Promise(done => setTimeout(done, ms));
        let answer;
        try {{ answer = await (async () => {{ {script} }})(); }} catch (e) {{ answer = String(e); }}
        const held = document.createElement("pre");
        held.id = "answer";
        held.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(answer))));
        document.body.append(held);
      }});
    </script></body>"""
    copy.write_text(told.replace("</body>", asking), encoding="utf-8")
    command = [
        BROWSER, "--headless=new", "--no-sandbox", f"--user-data-dir={page.parent / 'browser'}",
        "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--hide-scrollbars",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        f"--window-size={width},768", f"--virtual-time-budget={1000 * seconds:.0f}", "--dump-dom",
        copy.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "LANG": "C.UTF-8"}
    )
    held = HELD.search(done.stdout)
    assert held, f"the browser gave no answer: {done.stderr[-600:]}"
    return json.loads(base64.b64decode(held[1]))
