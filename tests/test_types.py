"""Messages: one line of a terminal, whatever is in them."""

from flashjax.types import one_line


def test_what_a_message_quotes_neither_breaks_its_line_nor_moves_the_cursor():
    told = one_line("x.gguf: tensor a\x1b[2J\r\nb\x00c\u202e is none", 100)
    assert told == r"x.gguf: tensor a\x1b[2J b\x00c\u202e is none" and told.isprintable()
    assert one_line("plain: é, 東京", 100) == "plain: é, 東京"
    assert len(one_line("w" * 10_000, 100)) < 120
