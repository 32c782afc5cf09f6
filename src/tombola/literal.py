"""Text of others (names, paths, labels, messages) as it may be shown: nothing in it moves a cursor or sets a colour."""


def literal(text: object) -> str:
    r"""Return a text on one line, with whatever cannot be seen written out: the escape character as \x1b.

    Control characters, line breaks, spaces other than the plain one, marks that change the direction of writing, and
    bytes of file names that are no text. Different texts stay different: backslashes before what looks like such an
    escape, or is one, are doubled; all others stay as they are.
    """
    shown: list[str] = []
    slashes = 0
    for character in str(text):
        if character == "\\":
            slashes += 1
            continue
        unseen = not character.isprintable()
        shown.append("\\" * slashes * (2 if unseen or character in "xuU" else 1))
        shown.append(_written_out(ord(character)) if unseen else character)
        slashes = 0
    return "".join(shown) + "\\" * slashes


def _written_out(point: int) -> str:
    if point < 0x100:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"
