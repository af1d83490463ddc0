"""List, remove, test and measure sandboxes: ls, gc, doctor, bench."""
