"""Button that fine-tunes the model with the corrections of a project, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QProcess
from qtpy.QtWidgets import QHBoxLayout, QProgressBar, QPushButton, QWidget

from runtime.napari.progress_lines import Progress, describe_failure, improve_command, parse_progress


class ImproveButton(QWidget):
    """Starts the command ``improve``, shows its progress, and stops it."""

    def __init__(
        self, choose: Callable[[], Path | None], command: Callable[[Path], list[str]] = improve_command
    ) -> None:
        """Create the button.

        Args:
            choose: returns the project directory; None if the user chose none.
            command: returns the program and its arguments for a project.
        """
        super().__init__()
        self._choose, self._command = choose, command
        self._process: QProcess | None = None
        self._errors, self._last = "", ""
        self.button, self.bar = QPushButton("Improve model"), QProgressBar()
        self.button.setToolTip("Fine-tune the model with the corrected images of a project.")
        self.button.clicked.connect(self.press)
        self.bar.setVisible(False)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.button)
        row.addWidget(self.bar, 1)

    @property
    def running(self) -> bool:
        """Return whether the command runs."""
        return self._process is not None

    def press(self) -> None:
        """Start the command, or stop it if it runs."""
        if self._process is not None:
            self._process.terminate()  # the command resumes where it was stopped
            return
        project = self._choose()
        if project is not None:
            self._start(self._command(project))

    def _start(self, command: list[str]) -> None:
        self._errors, self._last = "", ""
        self._process = process = QProcess(self)
        process.readyReadStandardOutput.connect(self._read_lines)
        process.readyReadStandardError.connect(self._read_errors)
        process.finished.connect(self._finish)
        process.errorOccurred.connect(self._fail_to_start)
        self.button.setText("Stop")
        self.bar.setRange(0, 0)
        self.bar.setFormat("starting")
        self.bar.setVisible(True)
        process.start(command[0], command[1:])

    def _read_lines(self) -> None:
        assert self._process is not None, "its signal"
        while self._process.canReadLine():
            line = bytes(self._process.readLine()).decode(errors="replace").strip()
            progress = parse_progress(line)
            if progress is None:
                self._last = line or self._last
            else:
                self._show(progress)

    def _read_errors(self) -> None:
        assert self._process is not None, "its signal"
        self._errors += bytes(self._process.readAllStandardError()).decode(errors="replace")

    def _show(self, progress: Progress) -> None:
        self.bar.setRange(0, progress.of)
        self.bar.setValue(progress.done)
        self.bar.setFormat(str(progress).replace("%", "%%"))

    def _finish(self, code: int, status: object) -> None:
        self._read_lines()
        self._read_errors()
        stopped = status != QProcess.ExitStatus.NormalExit or code in (130, 143)
        self._reset()
        if stopped:
            show_info("improve was stopped")
        elif code:
            show_error(describe_failure(self._errors, code))
        else:
            show_info(self._last or "the model was improved")

    def _fail_to_start(self, error: object) -> None:
        if error == QProcess.ProcessError.FailedToStart:
            assert self._process is not None, "its signal"
            reason = self._process.errorString()
            self._reset()
            show_error(
                f"'improve' cannot be started: {reason}; expected Python of this installation. Install it again."
            )

    def _reset(self) -> None:
        if self._process is not None:
            self._process.deleteLater()
        self._process = None
        self.button.setText("Improve model")
        self.bar.setVisible(False)

    def close_process(self) -> None:
        """Stop the command with the window."""
        if self._process is not None:
            self._process.finished.disconnect(self._finish)
            self._process.terminate()
            self._process.waitForFinished(2000)
            self._process = None
