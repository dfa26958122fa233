"""Images as requests send them, and results, tiles and outlines as answers contain them."""
