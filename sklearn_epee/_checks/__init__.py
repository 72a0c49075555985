"""What callers pass, checked and encoded, without torch: samples, labels, tasks, arguments."""
