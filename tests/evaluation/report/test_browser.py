"""A report in a browser: all is drawn, nothing is fetched, no script fails, nothing is wider than the window."""

import base64
import functools
import hashlib
import html
import json
import re
import shutil
import subprocess

import pytest

from ass_jax.evaluation.report.ladder import read_ladder
from ass_jax.evaluation.report.page import page
from ass_jax.evaluation.report.run import read_run
from tests.evaluation.report.test_page import LADDER
from tests.helpers.report_runs import HOSTILE, write_run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="There is no chromium or google-chrome to open a page with.")

# Runs before all other scripts; when the figures are drawn, the title of the page holds what it saw.
PROBE = """
const seen = {errors: [], alerts: 0};
addEventListener("error", (event) => seen.errors.push(String(event.message)), true);
addEventListener("unhandledrejection", (event) => seen.errors.push(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => seen.errors.push(event.violatedDirective + event.blockedURI));
alert = () => { seen.alerts += 1; };
function canvases(root) {
  const inside = [...root.querySelectorAll("*")].filter((element) => element.shadowRoot);
  return [...root.querySelectorAll("canvas"), ...inside.flatMap((element) => canvases(element.shadowRoot))];
}
function isDrawn(canvas) {
  return canvas.width > 0 && canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean);
}
addEventListener("load", () => setTimeout(() => {
  const figures = [...document.querySelectorAll("[data-item]")];
  seen.figures = figures.length;
  seen.drawn = figures.filter((figure) => canvases(figure.firstChild.shadowRoot).some(isDrawn)).length;
  const models = Bokeh.documents.flatMap((shown) => shown.roots());
  seen.inks = [...new Set(models.map((model) => model.left[0].major_label_text_color))];
  const key = document.querySelector("button");
  key.click();
  seen.alphas = [...models[0].renderers[0].data_source.data.alpha];
  seen.pressed = key.getAttribute("aria-pressed");
  const loaded = performance.getEntriesByType("resource").map(({name}) => name);
  seen.fetched = loaded.filter((name) => !/^(data|blob):/.test(name));
  seen.scripts = [...document.scripts].filter(({src}) => src).length;
  seen.width = innerWidth;
  seen.content = document.documentElement.scrollWidth;
  document.title = "seen " + JSON.stringify(seen);
}, 1500));
"""


def probed(text, without_policy=False):
    """Returns a page that also runs the probe, with its policy or without one."""
    digest = base64.b64encode(hashlib.sha256(PROBE.encode()).digest()).decode()
    if without_policy:
        text, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    else:
        text, count = re.subn("script-src ", f"script-src 'sha256-{digest}' ", text, count=1)
    assert count == 1
    return text.replace("</title>", f"</title><script>{PROBE}</script>", 1)


@functools.cache
def pages(folder):
    """Returns a page of one run and a page of two with a ladder, with hostile names."""
    names = ("road", f"{HOSTILE}<img src=x onerror=alert(2)>", r"$$\frac{1}{2}$$ \(a\)")
    first = write_run(folder / "first", "ass", names=names)
    second = write_run(folder / "second", HOSTILE, names=names, settings={"note": "</script><script>alert(3)</script>"})
    variants = LADDER["variants"] | {r"$$x$$": LADDER["variants"]["joint"]}
    (folder / "ladder.json").write_text(json.dumps(LADDER | {"variants": variants}))
    runs = [read_run(first), read_run(second)]
    return {"one": page(runs[:1]), "several": page(runs, [read_ladder(folder / "ladder.json")])}


def look(folder, shown, dark):
    """Opens pages in frames of given widths, for windows have a least one.

    Args:
      folder: for the files.
      shown: the texts of the pages with their widths.
      dark: whether the user prefers dark pages.

    Returns:
      What the probe of each page saw, and the lines of the browser's console.
    """
    frames = ""
    for number, (text, width) in enumerate(shown):
        (folder / f"{number}.html").write_text(text)
        frames += f'<iframe src="{number}.html" style="width:{width}px;height:900px;border:0"></iframe>'
    collect = (
        'document.title = [...document.querySelectorAll("iframe")].map((f) => f.contentDocument.title).join("|||")'
    )
    frames += f"<script>onload = () => setTimeout(() => {{ {collect} }}, 3000)</script>"
    (folder / "frames.html").write_text(frames)
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += [f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--window-size=1400,1000"]
    command += ["--enable-logging=stderr", "--v=0", "--virtual-time-budget=6000", "--dump-dom"]
    command.append((folder / "frames.html").as_uri())
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    titles = html.unescape(re.search("<title>(.*?)</title>", result.stdout, re.DOTALL)[1]).split("|||")
    assert all(title.startswith("seen ") for title in titles), (titles, result.stderr)
    console = [line for line in result.stderr.splitlines() if ":CONSOLE" in line]
    return [json.loads(title.removeprefix("seen ")) for title in titles], console


@pytest.mark.parametrize("dark", [False, True])
def test_report_in_a_browser(tmp_path, tmp_path_factory, dark):
    """In the light on a wide screen with the page's policy; in the dark on a narrow one without it."""
    texts = pages(tmp_path_factory.getbasetemp() / "report_pages")
    width = 420 if dark else 1280
    kinds = ["one", "several"] if dark else ["one"]
    every, console = look(tmp_path, [(probed(texts[kind], without_policy=dark), width) for kind in kinds], dark)
    assert [line for line in console if "rror" in line] == []
    for kind, seen in zip(kinds, every, strict=True):
        assert_is_sound(seen, texts[kind], width, dark)


def assert_is_sound(seen, text, width, dark):
    assert seen["errors"] == []
    assert seen["alerts"] == 0
    assert seen["fetched"] == []
    assert seen["scripts"] == 0
    assert seen["drawn"] == seen["figures"] == text.count("data-item=") > 4
    assert seen["width"] == width
    assert seen["content"] <= width
    assert seen["inks"] == ["#98a1ac" if dark else "#626a75"]
    # A click on the first key hides its entries.
    assert seen["pressed"] == "false"
    assert seen["alphas"] == [0, 0, 0, 1, 1, 1]
