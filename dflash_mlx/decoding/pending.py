"""A pass of the target between its sending and its commit.

Owns the record. Does not know who sends, reads or commits it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import mlx.core as mx

from ..models.targets.replay import Tape
from .sampling import Chooser, mask_logits


@dataclass(frozen=True)
class PendingPass:
    """A target's pass that was sent and is not committed yet. All arrays are lazy.

    Args:
        block: [n] the tokens passed, the anchor first.
        width: Rows to commit or take back; 0 for the last row of the prefill, which
            belongs to the prompt.
        position: The place in the text of the first choice.
        choices: [n] the target's choice after each row.
        logits: [n, V] the processed logits that the choices were made from.
        features: [1, n, F] of the rows, for the drafter; None where a FeatureQueue has
            them already.
        tape: Lets the target take back rows of recurrent layers.
    """

    block: mx.array
    width: int
    position: int
    choices: mx.array
    logits: mx.array
    features: mx.array | None
    tape: Tape | None = None

    def masked(self, masks: mx.array, chooser: Chooser) -> PendingPass:
        """This pass of a row, sent without masks, with a choice that they allow.

        The choice is sent by itself: to read it must not wait for the next pass.

        Args:
            masks: As in mask_logits.
            chooser: Makes the target's choices.
        """
        logits = mask_logits(self.logits, masks)
        places = range(self.position, self.position + len(logits))
        choices = chooser.choose(logits, places)
        mx.async_eval(choices)
        return replace(self, logits=logits, choices=choices)
