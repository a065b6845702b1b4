"""The kinds of columns that the tables are made of, and the metadata that holds the tables."""

from sqlalchemy import BigInteger, Column, DateTime, LargeBinary, MetaData, Text

metadata = MetaData()


def text_(name: str) -> Column[str]:
    """A text that every row has."""
    return Column(name, Text, nullable=False)


def int_(name: str) -> Column[int]:
    """A 64-bit integer that every row has."""
    return Column(name, BigInteger, nullable=False)


def bytes_(name: str) -> Column[bytes]:
    """Bytes that every row has."""
    return Column(name, LargeBinary, nullable=False)


def time_(name: str, *, nullable: bool = False) -> Column[object]:
    """A moment."""
    return Column(name, DateTime(timezone=True), nullable=nullable)
