"""The text of the reference series: stated and withheld facts, companions, neutral sentences."""

from factlife.corpora.reference_text.names import Companion
from factlife.corpora.reference_text.text import (
    Document,
    TextConfig,
    TextPlan,
    passes,
    plan_text,
    wordings_of,
)

__all__ = ["Companion", "Document", "TextConfig", "TextPlan", "passes", "plan_text", "wordings_of"]
