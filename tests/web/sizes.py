"""The windows that pages are looked at in, CSS pixels."""

WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 360, "height": 740}
