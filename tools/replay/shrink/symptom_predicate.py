"""The symptom `predicate`: whatever a function of the user's own says of a played run."""

import runpy
import traceback

from tokenreel.actors.core.scenario import Scenario
from tokenreel.tools.replay.shrink.symptoms import Plain
from tokenreel.tools.replay.shrink.trial import Played, Watch

DEFAULT_FUNCTION = "shows"


class PredicateFault(Exception):
    """The user's predicate cannot be had, or raised; the message says how."""


class Predicate(Plain):
    """`predicate FILE.py[:FUNCTION]`: the user's function, given a Played, says that it shows: by
    what it returns, if that is true."""

    keeps_events = True

    def __init__(self, place: str) -> None:
        """Raises PredicateFault."""
        super().__init__(f"predicate:{place}")
        self.place = place
        file, colon, function = place.partition(".py:")
        path = f"{file}.py" if colon else place
        self.function = function or DEFAULT_FUNCTION
        try:
            found = runpy.run_path(path)
            self._shows = found[self.function]
        except KeyError as missing:
            raise PredicateFault(f"{path} has no function {missing}") from None
        except OSError as error:
            raise PredicateFault(f"{path}: {error.strerror}") from None
        except Exception as error:
            raise PredicateFault(f"{path}: {error!r}") from None

    def watch(self, scenario: Scenario) -> Watch:
        return self

    def on_end(self, played: Played) -> str | None:
        try:
            found = self._shows(played)
        except Exception as error:
            line = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{line.filename}, line {line.lineno}"
            raise PredicateFault(f"{self.place} raised {error!r} ({where})") from error
        return str(found) if found else None
