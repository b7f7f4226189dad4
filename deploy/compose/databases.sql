-- POSTGRES_DB is the log's.
CREATE DATABASE inventory;
CREATE DATABASE coupon;
CREATE DATABASE "order";
