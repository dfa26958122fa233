"""One view of an image: encode, detect, decode, assemble."""
