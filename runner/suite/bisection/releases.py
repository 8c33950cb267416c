"""Which release broke it? One model with the releases of one package, in one toolchain.

Each release is tried in a toolchain of its own, whose packages are resolved as of its date. The
interval is halved, since an environment for each release takes minutes and gigabytes.
"""

from __future__ import annotations

import glob
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from runner.errors import ExitCode, RunnerError
from runner.formats.identify import read_file
from runner.formats.kinds import KINDS
from runner.host.files import hash_file
from runner.host.text import make_printable
from runner.packages.lockfile import compare_locks
from runner.recipes.candidates import Span, Subject, choose_subject
from runner.recipes.releases import Projects, Release, Releases
from runner.recipes.variant import ReleaseUnavailable, Variant, write_variant
from runner.suite.bisection.search import Verdict, search
from runner.suite.bisection.toolchains import DEFAULT_WHATS, Bisection, Step, judge
from runner.suite.jobs.follow import follow_job
from runner.suite.jobs.job import Job, Share
from runner.suite.latency import measure_latency, merge_latency
from runner.suite.plan import Conversion, SuitePlan, make_suite_plan
from runner.suite.request import Setting, describe_code
from runner.suite.results import Record, Results, make_record, read_results, write_table
from runner.suite.run import Watcher
from runner.suite.settings import PLAIN, LatencyTable, Options, Suite, SuiteFile
from runner.toolchains.load import forget_toolchains
from runner.toolchains.model import Toolchain

TOOLCHAINS = "toolchains"
_PLACE = "RUNNER_TOOLCHAINS"


@dataclass(frozen=True)
class Way:
    """How the releases are tried, besides the options of the conversion.

    With `every`, each is, in order. The pins of the packages in `loosen` give way to the release.
    """

    setting: Setting = Setting()
    latency: LatencyTable = field(default_factory=lambda: LatencyTable(sessions=5))
    whats: Sequence[str] = DEFAULT_WHATS
    loosen: Sequence[str] = ()
    every: bool = False


def bisect_releases(
    path: Path,
    span: Span,
    output: Path,
    projects: Projects,
    options: Options = Options(),
    way: Way = Way(),
    watcher: Watcher = Watcher(),
) -> Bisection:
    """Find the first release of a package with which a model is worse than with the oldest one.

    The runs are kept in `output`, and the toolchains that made them; what is there already is taken
    as it is. Raises `BadInput` and `EnvironmentUnavailable`.
    """
    kind = KINDS[read_file(path).format].start or "pytorch"
    releases = Releases(projects)
    subject = choose_subject(span, kind, releases)
    images = ", ".join(target.image.name for target in subject.targets)
    watcher.say(
        f"{subject.package} in {images}, of the toolchain {subject.chain.title}: "
        f"{len(subject.candidates)} releases, {_name(subject.candidates[0])} to "
        f"{_name(subject.candidates[-1])}."
    )
    with Results(output.absolute()).open() as results:
        trials = _Trials(path, subject, releases, results, options, way, watcher)
        if way.every:
            for place in range(len(subject.candidates)):
                trials.judge(place)
        else:
            search(len(subject.candidates), trials.judge)
        trials.try_alone()
        if trials.variants:
            write_table(read_results(results.folder))
        return trials.conclude()


def _name(release: Release) -> str:
    return f"{release.version} ({release.day})" if release.day else str(release.version)


@dataclass
class _Trials:
    """The releases that were tried so far: what was written for each, and what came of it.

    `control` is the first bad release with all other packages of the last good one, or why there is
    no such thing.
    """

    path: Path
    subject: Subject
    releases: Releases
    results: Results
    options: Options
    way: Way
    watcher: Watcher
    variants: dict[int, Variant] = field(default_factory=dict)
    skipped: dict[int, Step] = field(default_factory=dict)
    control: Variant | Step | None = None

    def judge(self, place: int) -> Verdict:
        """Convert the model with a release, and tell whether it is worse than the oldest good."""
        release = self.subject.candidates[place]
        self.watcher.say(f"{release.name} {_name(release)}")
        try:
            self.variants[place] = self._write(release)
        except ReleaseUnavailable as error:
            self.skipped[place] = self._skip(release, error.message)
            return "skip"
        self._try(self.variants[place])
        found = self.conclude()
        step = next(s for s in found.steps if s.release == str(release.version))
        if step.skipped:
            return "skip"
        return "bad" if step.bad or found.good is None else "good"

    def try_alone(self) -> None:
        """Try the first bad release beside the packages of the last good one.

        What was published between the two could be to blame as well.
        """
        found = self.conclude()
        if not (found.first_bad and found.last_good and found.lock_changes):
            return
        places = {str(v.release.version): v for v in self.variants.values()}
        bad, good = places[found.first_bad.release], places[found.last_good.release]
        self.watcher.say(
            f"{bad.release.name} {bad.release.version}, with the other packages of "
            f"{good.release.version}"
        )
        try:
            self.control = self._write(bad.release, beside=good)
        except ReleaseUnavailable as error:
            self.control = self._skip(bad.release, error.message)
            return
        self._try(self.control)

    @property
    def folder(self) -> Path:
        """The folder of the toolchains, for RUNNER_TOOLCHAINS."""
        return self.results.folder / TOOLCHAINS

    def _write(self, release: Release, beside: Variant | None = None) -> Variant:
        return write_variant(
            self.subject, release, self.releases, self.folder, self.way.loosen, beside
        )

    def _skip(self, release: Release, reason: str) -> Step:
        record = Record(
            key="",
            model=self.path.stem,
            toolchain=f"{self.subject.chain.title}-{release.name}-{release.version}",
            variant=PLAIN,
            outcome="unavailable",
            reason=make_printable(reason),
            exit_code=int(ExitCode.ENVIRONMENT),
        )
        self.watcher.finished(record)
        return Step(record.toolchain, release.day, record, release=str(release.version))

    def _list_tried(self) -> list[Variant]:
        """List what was written, in order of version; the control last."""
        tried = [variant for _, variant in sorted(self.variants.items())]
        return [*tried, *([self.control] if isinstance(self.control, Variant) else [])]

    def _plan(self) -> SuitePlan:
        file = SuiteFile(
            name=f"{self.path.name} by {self.subject.targets[0].name}",
            models=[glob.escape(self.path.name)],
            toolchains=[variant.name for variant in self._list_tried()],
            defaults=self.options,
        )
        return make_suite_plan(Suite(self.path.absolute().parent, file))

    def _try(self, variant: Variant) -> None:
        """Convert the model and measure it, unless that is done."""
        with _offer(self.folder):
            plan = self._plan()
            conversion = plan.conversions[self._list_tried().index(variant)]
            if conversion.refusal is not None:  # it is about the model, and every release's
                raise conversion.refusal
            self.results.write_index(plan, describe_code())
            record = self.results.find(conversion) or self._run(conversion)
            self.watcher.finished(record)
        self._measure(record)

    def _run(self, conversion: Conversion) -> Record:
        assert conversion.request is not None
        cell = str(conversion.cell)
        draft = self.results.drafts / secrets.token_hex(4)
        draft.parent.mkdir(parents=True, exist_ok=True)
        self.watcher.started(cell, "")
        begin = time.monotonic()
        job = Job(conversion.request, self.way.setting, Share(), draft)
        code, failure = follow_job(job, lambda stage: self.watcher.stage(cell, stage))
        seconds = time.monotonic() - begin
        record = make_record(
            conversion, draft, exit_code=code, failure=failure, seconds=seconds, attempts=1
        )
        self.results.place(draft, record)
        return record

    def _measure(self, record: Record) -> None:
        """Measure the latency of what was made, in turns with what it is compared with."""
        table = self.way.latency
        found = read_results(self.results.folder)
        wanted = "latency" in self.way.whats and table.sessions
        if not (wanted and record.artifact) or record.artifact in found.latency.files:
            return
        good = judge(found, self._list_chains(), self.way.whats).good
        files = {
            made.artifact: path
            for made in (record, *((good.record,) if good else ()))
            for path in (self.results.folder / made.run).glob("*.tflite")
            if hash_file(path) == made.artifact
        }
        try:
            measured = measure_latency(files, table, self.way.setting.engine)
        except RunnerError as error:
            self.watcher.say(f"The latency could not be measured: {error.message}")
            return
        self.results.write_latency(merge_latency(found.latency, measured))

    def _list_chains(self) -> list[Toolchain]:
        return [
            replace(self.subject.chain, name=v.name, short="", date=v.release.day)
            for v in self._list_tried()
        ]

    def conclude(self) -> Bisection:
        """Say what is known after the releases that were tried."""
        found = Bisection(self.path.stem, self.results.folder, [], None)
        if self.variants:
            found = judge(read_results(self.results.folder), self._list_chains(), self.way.whats)
        named = {variant.name: place for place, variant in self.variants.items()}
        steps: dict[int, Step] = {**self.skipped}
        control = self.control if isinstance(self.control, Step) else None
        for step in found.steps:
            if step.toolchain in named:
                place = named[step.toolchain]
                steps[place] = replace(step, release=str(self.subject.candidates[place].version))
            else:
                control = step
        found = replace(
            found,
            steps=[steps[place] for place in sorted(steps)],
            good=steps[named[found.good.toolchain]] if found.good else None,
            package=self.subject.targets[0].name,
            untried=[
                str(release.version)
                for place, release in enumerate(self.subject.candidates)
                if place not in steps
            ],
            notes=[*found.notes, *self._note_held()],
            control=control,
        )
        return replace(found, lock_changes=self._compare_locks(found, named))

    def _compare_locks(
        self, found: Bisection, named: Mapping[str, int]
    ) -> Mapping[str, Sequence[str]]:
        """List, by image, what else differs between the last good release and the first bad."""
        good, bad = found.last_good, found.first_bad
        if good is None or bad is None:
            return {}
        before, after = (self.variants[named[step.toolchain]] for step in (good, bad))
        changes = {
            target.image.name: [
                change
                for change in compare_locks(
                    before.locks[target.image.name], after.locks[target.image.name]
                )
                if not change.startswith(f"{target.name} ")
            ]
            for target in self.subject.targets
        }
        return {image: found for image, found in changes.items() if found}

    def _note_held(self) -> Iterator[str]:
        held = [str(v.release.version) for _, v in sorted(self.variants.items()) if not v.as_of]
        if held:
            yield (
                f"No index says when {', '.join(held)} came out: the other packages are those of "
                f"the toolchain {self.subject.chain.title}, whatever the date."
            )


@contextmanager
def _offer(place: Path) -> Iterator[None]:
    """Let this process, and those that it starts, find the toolchains of a folder."""
    before = os.environ.get(_PLACE)
    os.environ[_PLACE] = str(place)
    forget_toolchains()
    try:
        yield
    finally:
        if before is None:
            del os.environ[_PLACE]
        else:
            os.environ[_PLACE] = before
