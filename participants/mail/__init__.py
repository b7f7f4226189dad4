"""Receipts: messages, because what was mailed cannot be taken back."""
