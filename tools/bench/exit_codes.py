"""What the exit code of `engine-bench` says. From 64 on they are those of BSD's sysexits."""

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 64
EXIT_UNAVAILABLE = 69
EXIT_FAULT = 70
EXIT_IO = 74
EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141

EXIT_CODES = """\
exit codes:
  0    done
  1    done, but requests or a start failed; the figures are of the others
  64   wrong usage
  69   the server is not there, or ended
  70   a fault of this tool
  74   something cannot be read or written
  130  interrupted; what was measured by then is told
  141  whoever read the output closed it"""
