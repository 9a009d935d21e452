"""A classifier of texts on a BERT of transformers: mean of the tokens, then one linear map."""

from typing import Any

from torch import Tensor, nn


class BertClassifier(nn.Module):
    """transformers' ``BertModel`` as it is, without pooler, under a linear classifier.

    Parameters are named as in transformers' ``BertForSequenceClassification``: ``bert.…`` and
    ``classifier.…``. The padding token is masked in attention and left out of the mean.

    Attributes:
        bert: of transformers.
        classifier: from the mean of a text's tokens to logits.
        name: what the model was built as.
        num_tokens: that every text is filled up or cut to.
    """

    def __init__(self, bert: Any, num_classes: int, *, name: str, num_tokens: int) -> None:
        super().__init__()
        self.bert = bert
        self.classifier = nn.Linear(bert.config.hidden_size, num_classes)
        self.name, self.num_tokens = name, num_tokens

    def forward(self, token_ids: Tensor) -> Tensor:
        """Logits ``[B, num_classes]`` of texts, int64 ``[B, N]``."""
        return self.classifier(self.features(token_ids))

    def features(self, token_ids: Tensor) -> Tensor:
        """What the classifier sees, ``[B, D]``."""
        mask = self.mask(token_ids)
        hidden = self.bert(input_ids=token_ids, attention_mask=mask).last_hidden_state
        return mean_of_tokens(hidden, mask)

    def mask(self, token_ids: Tensor) -> Tensor:
        """Which tokens are no padding, bool ``[B, N]``."""
        bert: Any = self.bert
        return token_ids != bert.config.pad_token_id


def mean_of_tokens(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean of the tokens that the mask leaves, ``[B, D]`` of ``[B, N, D]``."""
    weights = mask.to(hidden.dtype)
    weights = weights / weights.sum(1, keepdim=True)
    return (hidden * weights[..., None]).sum(1)
