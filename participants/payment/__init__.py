"""Payments: a saga, because a card is charged at once and can be refunded."""
