"""What a user sees of a run while it goes on."""

import io
import sys

import pytest

from stages.lib.training import distributed, progress


@pytest.fixture
def clock(monkeypatch):
    """Two seconds pass between two looks at the clock."""
    seconds = iter(range(0, 1000, 2))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))


def test_a_line_per_epoch_where_the_output_is_no_terminal(clock, capsys):
    bar = progress.Progress("pretrain uscl", epochs=5, done=2)
    for loss in (3.0, 2.5, 0.123456):
        bar.step(loss=loss, held_out_loss=2 * loss)
    assert capsys.readouterr().out.splitlines() == [
        "pretrain uscl: 2 of 5 epochs were done before, going on",
        "pretrain uscl: epoch 3 of 5, loss 3, held_out_loss 6, 00:04 left",
        "pretrain uscl: epoch 4 of 5, loss 2.5, held_out_loss 5, 00:02 left",
        "pretrain uscl: epoch 5 of 5, loss 0.1235, held_out_loss 0.2469, 00:00 left",
    ]


def test_a_bar_with_the_time_left_on_a_terminal(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    bar = progress.Progress("pretrain uscl", epochs=2)
    bar.bar.mininterval = 0
    bar.step(loss=1.5)
    bar.step(loss=1.25)
    shown = sys.stderr.getvalue()
    assert "pretrain uscl" in shown and "1/2" in shown and "loss=1.25" in shown and "<" in shown
    assert capsys.readouterr().out == ""


def test_only_the_first_process_of_several_speaks(monkeypatch, capsys):
    monkeypatch.setattr(distributed, "first", lambda: False)
    progress.Progress("pretrain uscl", epochs=1).step(loss=1.0)
    out = capsys.readouterr()
    assert out.out == out.err == ""
