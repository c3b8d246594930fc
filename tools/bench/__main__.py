"""`python -m tokenreel.tools.bench` is `engine-bench`."""

from tokenreel.tools.bench.cli import main

raise SystemExit(main())
