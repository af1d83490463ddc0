"""Words that the seed and the tools share. Files of one app may import each other."""

NAMES = ("apple", "Birne", "柿", "naïve melon")
SHELVES = ("left", "right")
