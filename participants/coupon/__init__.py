"""Coupons that are frozen, then used or given back; none is ever used twice."""
