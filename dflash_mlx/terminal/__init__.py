"""What people see: answers on stdout, everything else on stderr."""
