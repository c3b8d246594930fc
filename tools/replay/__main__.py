"""`python -m tokenreel.tools.replay` is `engine-replay`."""

from tokenreel.tools.replay.cli import main

raise SystemExit(main())
