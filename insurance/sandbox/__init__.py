"""The reference insurer: a system of its own that enrols, endorses, cancels, answers and can misbehave.

It stands in for a real insurer. The business side reaches it by signed messages only and imports nothing of it;
it imports nothing of the business side but the envelope and the rounding of money.
"""
