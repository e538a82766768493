"""What the released Infinity models leave out at medium and low quality: reasoned, and not measured on them.

At one megapixel the last two scales hold 61% of the tokens and 84% of the query-key pairs. FasterVAR and
SkipVAR go on without guidance in late steps, the former at a loss of 0.01 in GenEval; FastVAR's code leaves
out the scales 48 and 64 outright, at under 1%. Counted in steps and not in grids, the same serves every
aspect ratio. The key step is long before, so the style enters as ever; attention stays corrected, for nobody
has measured what happens otherwise.
"""

from __future__ import annotations

from service.model.shortcuts import Qualities, Shortcuts

BY_BUDGET: dict[str, Qualities] = {
    # 16 x 16 tokens are few: only the last scale can be spared.
    "0.06M": Qualities(medium=Shortcuts(guidance_until=5), low=Shortcuts(guidance_until=4, stop_after=6)),
    "0.25M": Qualities(medium=Shortcuts(guidance_until=8), low=Shortcuts(guidance_until=6, stop_after=8)),
    "0.60M": Qualities(medium=Shortcuts(guidance_until=10), low=Shortcuts(guidance_until=8, stop_after=10)),
    "1M": Qualities(medium=Shortcuts(guidance_until=11), low=Shortcuts(guidance_until=9, stop_after=11)),
}
