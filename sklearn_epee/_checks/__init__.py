"""What callers pass, checked and encoded, without torch: texts, images, labels, tasks, arguments."""
