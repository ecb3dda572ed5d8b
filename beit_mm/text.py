"""Text from files and arguments, made safe to show."""

import unicodedata


def show(text: object) -> str:
    """Text for a terminal or a table: in one line, with control characters and what is no Unicode as escapes."""
    return ''.join(
        char if char.isprintable() or unicodedata.category(char) == 'Zs' else char.encode('unicode_escape').decode()
        for char in str(text)
    )


def show_start(text: object, length: int = 200) -> str:
    """Like `show`, cut to a number of characters."""
    start = str(text)[: length + 1]
    return show(start[:length]) + '...' * (len(start) > length)


def show_cell(value: object) -> str:
    """Like `show`, for a cell of a table that a spreadsheet may open: with a `'` before what would be a formula."""
    text = show(value)
    return f"'{text}" if text.lstrip().startswith(tuple('=+-@＝＋－＠')) else text
