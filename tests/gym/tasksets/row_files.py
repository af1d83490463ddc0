"""Files of labelled rows, written by tests."""

import json


def file(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def squad(*questions, version="1.1"):
    paragraphs = [{"context": context, "qas": qas} for context, qas in questions]
    return json.dumps({"version": version, "data": [{"title": "T", "paragraphs": paragraphs}]})


def question(id_, text="Who?", answers=("Ann",), **more):
    return {
        "id": id_,
        "question": text,
        "answers": [{"text": answer, "answer_start": 0} for answer in answers],
    } | more
