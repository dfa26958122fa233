"""Where cells lie and what shape they have: functions of (rng, size_hw, diameter_px) that make a ``Scene``."""
