"""What the exit code of `engine-replay` says. From 64 on they are those of BSD's sysexits."""

EXIT_OK = 0
EXIT_DIVERGED = 3
EXIT_NO_SYMPTOM = 4
EXIT_USAGE = 64
EXIT_DAMAGED = 65
EXIT_MISSING = 66
EXIT_FAULT = 70
EXIT_IO = 74
EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141

EXIT_CODES = """\
exit codes:
  0    done; for verify: the code decides as it did then
  3    verify: the code does not; redact, keep: no result
  4    shrink: the symptom does not show when the captured run is played
  64   wrong usage
  65   the journal is damaged; the line names segment and offset
  66   there is no journal there, or it cannot be read
  70   a fault of this tool
  74   something cannot be read or written, such as output to a full disk
  130  interrupted
  141  whoever read the output closed it"""
