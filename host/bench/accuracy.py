"""Accuracy of a plan through the real engine, with all layers in memory: where weights wait changes no answer."""

from collections.abc import Callable
from dataclasses import replace

from device_agent.plan import Plan, Schedule, plan_document
from host.bench.emulated import Session
from host.bench.records import AccuracyRecord
from host.bench.subject import Subject
from host.client import Classification, RunOptions

_TEXTS_PER_REQUEST = 64


def accuracy(session: Session, subject: Subject, plan: Plan, progress: Callable[[int], None]) -> AccuracyRecord:
    """Ask for every text of the data. progress: texts done."""
    kept = plan.with_residency([None] * len(plan.layers))  # as many as the budget holds: all
    kept = replace(kept, schedule=Schedule.PIPELINED, loading_agents=1, layers_in_flight=2)
    options = RunOptions(plan=plan_document(kept), truncate=True)
    right = 0
    texts, labels = subject.data.texts, subject.data.labels
    for start in range(0, len(texts), _TEXTS_PER_REQUEST):
        expected = labels[start : start + _TEXTS_PER_REQUEST]
        answer = session.client.classify(texts[start : start + _TEXTS_PER_REQUEST], options)
        for item, label in zip(answer.data, expected, strict=True):
            assert isinstance(item, Classification)
            right += item.label == subject.labels[label]
        progress(start + len(expected))
    return AccuracyRecord(right, len(texts))
