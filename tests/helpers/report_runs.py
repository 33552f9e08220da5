"""Working directories as runs leave them, for tests of reports."""

import html.parser
import json
from types import SimpleNamespace

import numpy as np

from ass_jax.evaluation import image_scores, metrics
from ass_jax.evaluation.report.record import EvaluationRecord

NAMES = ("road", "sky", "car")
PALETTE = np.array([[128, 64, 128], [70, 130, 180], [0, 0, 142]], np.uint8)
HOSTILE = "<script>alert(1)</script>"


def class_table(names=NAMES, others=()):
    subsets = {"all": tuple(range(len(names)))}
    return SimpleNamespace(names=names, palette=PALETTE[: len(names)], subsets=subsets, raw_ids=None, others=others)


def record_of(names=NAMES, images=4, prefix="town"):
    """Returns the record of a pass and its scores: of each image, the last `number` of 8 pixels are wrong."""
    record, total, counts = EvaluationRecord(class_table(names)), np.zeros((len(names), len(names)), int), []
    for number in range(images):
        label = np.zeros((2, 4), np.uint8)
        prediction = np.where(np.arange(8) < 8 - number, 0, 1).reshape(2, 4).astype(np.uint8)
        confusion = np.zeros_like(total)
        confusion[0, 0], confusion[0, 1] = 8 - number, number
        record.visit(f"{prefix}_{number}", np.zeros((2, 4, 3), np.uint8), prediction, label, confusion)
        total += confusion
        counts.append(image_scores.count_pixels(confusion[None]))
    record.take_total(total)
    subsets = class_table(names).subsets
    scores = metrics.report(total, names, subsets) | image_scores.report(np.concatenate(counts), names)
    return record, {"step": 40, "split": "validation", "chosen": "the last one", "labelled": None} | scores


def write_run(folder, variant="ass", steps=40, every=10, names=NAMES, evaluated=True, settings=None):
    """Writes the files of a run, whose loss is 1 / step, at 8 images a step and 4 images a second."""
    folder.mkdir(parents=True)
    config = {"variant": variant, "steps": steps, "loss": {"global_weight": 0.5}} | (settings or {})
    (folder / "config.json").write_text(json.dumps(config))
    lines = [
        {"step": step, "loss/global": 1 / step, "images_per_second": 4.0} for step in range(every, steps + 1, every)
    ]
    lines.append({"step": steps, "validation/mIoU_all": 0.5, f"validation_IoU/{names[0]}": 0.75})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if evaluated:
        record, scores = record_of(names)
        record.write(folder, scores, images_per_step=8)
    return folder


class Page(html.parser.HTMLParser):
    """What a page shows.

    Attributes:
      tables: each a list of rows of texts.
      cards: value by title.
      elements: names of all elements, each once.
      links: values of attributes that load or lead to something.
      data: JSON by id.
      words: all text outside of scripts and style.
    """

    def __init__(self, text):
        super().__init__()
        self.tables, self.cards, self.elements, self.links, self.data, self.words = [], {}, set(), [], {}, ""
        self.labels, self._open, self._cell = [], None, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.add(tag)
        self.links += [value for name, value in attributes.items() if name in ("src", "href", "srcset", "action")]
        self._open = (tag, attributes.get("id"))
        if tag == "button":
            self.labels.append(attributes["data-key"])
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        if tag in ("th", "td", "dt", "dd"):
            self._cell = ""

    def handle_endtag(self, tag):
        self._open = None
        if tag in ("th", "td"):
            self.tables[-1][-1].append(self._cell)
        elif tag == "dt":
            self._title = self._cell
        elif tag == "dd":
            self.cards[self._title] = self._cell

    def handle_data(self, data):
        tag, name = self._open or (None, None)
        if tag == "script" and name:
            self.data[name] = json.loads(data)
        elif tag not in ("script", "style"):
            self.words += data
            if self._cell is not None:
                self._cell += data

    def rows(self):
        """Returns the rows of all tables by their first cell."""
        return {row[0]: row[1:] for table in self.tables for row in table}
