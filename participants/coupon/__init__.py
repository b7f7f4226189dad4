"""Coupons that are frozen, then used or returned. No coupon is used twice."""
