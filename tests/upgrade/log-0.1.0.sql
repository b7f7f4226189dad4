--
-- PostgreSQL database dump
--


-- Dumped from database version 18.4
-- Dumped by pg_dump version 18.4

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: alembic_version; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);


--
-- Name: audit; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.audit (
    sequence bigint NOT NULL,
    at_us bigint NOT NULL,
    operator text NOT NULL,
    action text NOT NULL,
    target text NOT NULL COLLATE pg_catalog."C",
    reason text NOT NULL,
    detail text NOT NULL,
    previous_hash bytea NOT NULL,
    hash bytea NOT NULL
);


--
-- Name: audit_head; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.audit_head (
    id smallint NOT NULL,
    sequence bigint NOT NULL,
    hash bytea NOT NULL
);


--
-- Name: coordinators; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.coordinators (
    id text NOT NULL COLLATE pg_catalog."C",
    name text NOT NULL,
    started_at timestamp with time zone NOT NULL,
    lease_until timestamp with time zone NOT NULL,
    drain_requested_at timestamp with time zone,
    report bytea,
    reported_at timestamp with time zone
);


--
-- Name: migration_lock; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.migration_lock (
    id smallint NOT NULL
);


--
-- Name: participants; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.participants (
    name text NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL,
    paused boolean NOT NULL,
    breaker_resets bigint NOT NULL,
    operator text NOT NULL,
    reason text NOT NULL,
    changed_at timestamp with time zone NOT NULL
);


--
-- Name: transactions; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.transactions (
    gid text NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL,
    state smallint NOT NULL,
    owner text NOT NULL COLLATE pg_catalog."C",
    claim text,
    interactive boolean NOT NULL,
    initiator text NOT NULL,
    labels jsonb NOT NULL,
    fingerprint bytea NOT NULL,
    branches bytea NOT NULL,
    payloads bytea NOT NULL,
    progress bytea,
    participants text[] NOT NULL,
    cancel_reason smallint DEFAULT '0'::smallint NOT NULL,
    cancel_branch_id text DEFAULT ''::text NOT NULL,
    cancel_detail text DEFAULT ''::text NOT NULL,
    stuck boolean DEFAULT false NOT NULL,
    waiting_on text DEFAULT ''::text NOT NULL,
    next_attempt_at timestamp with time zone,
    created_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    decided_at timestamp with time zone,
    ended_at timestamp with time zone,
    heuristic boolean DEFAULT false NOT NULL,
    adopted_at timestamp with time zone,
    adopted_from text COLLATE pg_catalog."C",
    trace text,
    cancel_message text DEFAULT ''::text NOT NULL
)
WITH (fillfactor='50');


--
-- Data for Name: alembic_version; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.alembic_version VALUES ('0005');


--
-- Data for Name: audit; Type: TABLE DATA; Schema: public; Owner: -
--



--
-- Data for Name: audit_head; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.audit_head VALUES (1, 0, '\x0000000000000000000000000000000000000000000000000000000000000000');


--
-- Data for Name: coordinators; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.coordinators VALUES ('the-former', 'former:1', '2026-11-27 23:43:17.750374+00', '2026-11-27 23:43:17.751374+00', NULL, NULL, NULL);


--
-- Data for Name: migration_lock; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.migration_lock VALUES (1);


--
-- Data for Name: participants; Type: TABLE DATA; Schema: public; Owner: -
--



--
-- Data for Name: transactions; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.transactions VALUES ('trying', 1, 1, 'the-former', NULL, false, '', '{}', '\x747279696e67', '\x9297ab622d696e76656e746f7279a9696e76656e746f7279a772657365727665aa746578742f706c61696e00c2c297a8622d636f75706f6ea6636f75706f6ea772657365727665aa746578742f706c61696e01c2c3', '\x92c40b00ff696e76656e746f7279c40800ff636f75706f6e', NULL, '{inventory,coupon}', 0, '', '', false, '', NULL, '2026-11-27 23:43:17.782803+00', '2033-05-18 03:33:20.5+00', NULL, NULL, false, NULL, NULL, NULL, '');
INSERT INTO public.transactions VALUES ('confirming', 2, 2, 'the-former', NULL, false, '', '{}', '\x636f6e6669726d696e67', '\x9297ab622d696e76656e746f7279a9696e76656e746f7279a772657365727665aa746578742f706c61696e00c2c297a8622d636f75706f6ea6636f75706f6ea772657365727665aa746578742f706c61696e01c2c3', '\x92c40b00ff696e76656e746f7279c40800ff636f75706f6e', NULL, '{inventory,coupon}', 0, '', '', false, '', NULL, '2026-11-27 23:43:17.789627+00', '2033-05-18 03:33:20.5+00', '2026-11-27 23:43:17.798991+00', NULL, false, NULL, NULL, NULL, '');
INSERT INTO public.transactions VALUES ('cancelling', 2, 3, 'the-former', NULL, false, '', '{}', '\x63616e63656c6c696e67', '\x9297ab622d696e76656e746f7279a9696e76656e746f7279a772657365727665aa746578742f706c61696e00c2c297a8622d636f75706f6ea6636f75706f6ea772657365727665aa746578742f706c61696e01c2c3', '\x92c40b00ff696e76656e746f7279c40800ff636f75706f6e', NULL, '{inventory,coupon}', 3, '', '', false, '', NULL, '2026-11-27 23:43:17.806634+00', '2033-05-18 03:33:20.5+00', '2026-11-27 23:43:17.816579+00', NULL, false, NULL, NULL, NULL, '');
INSERT INTO public.transactions VALUES ('parked', 3, 2, 'the-former', NULL, false, '', '{}', '\x7061726b6564', '\x9297ab622d696e76656e746f7279a9696e76656e746f7279a772657365727665aa746578742f706c61696e00c2c297a8622d636f75706f6ea6636f75706f6ea772657365727665aa746578742f706c61696e01c2c3', '\x92c40b00ff696e76656e746f7279c40800ff636f75706f6e', '\x929701c400a0c203b349545f4641494c45443a20736f206974206973cb3ff00000000000009701c400a0c200a0cb0000000000000000', '{inventory,coupon}', 0, '', '', false, 'inventory', '1970-01-01 00:00:01+00', '2026-11-27 23:43:17.821268+00', '2033-05-18 03:33:20.5+00', '2026-11-27 23:43:17.823218+00', NULL, false, NULL, NULL, NULL, '');
INSERT INTO public.transactions VALUES ('confirmed', 3, 4, 'the-former', NULL, false, '', '{}', '\x636f6e6669726d6564', '\x9297ab622d696e76656e746f7279a9696e76656e746f7279a772657365727665aa746578742f706c61696e00c2c297a8622d636f75706f6ea6636f75706f6ea772657365727665aa746578742f706c61696e01c2c3', '\x92c40b00ff696e76656e746f7279c40800ff636f75706f6e', NULL, '{inventory,coupon}', 0, '', '', false, '', NULL, '2026-11-27 23:43:17.831198+00', '2033-05-18 03:33:20.5+00', '2026-11-27 23:43:17.831865+00', '2026-11-27 23:43:17.836593+00', false, NULL, NULL, NULL, '');
INSERT INTO public.transactions VALUES ('cancelled', 3, 5, 'the-former', NULL, false, '', '{}', '\x63616e63656c6c6564', '\x9297ab622d696e76656e746f7279a9696e76656e746f7279a772657365727665aa746578742f706c61696e00c2c297a8622d636f75706f6ea6636f75706f6ea772657365727665aa746578742f706c61696e01c2c3', '\x92c40b00ff696e76656e746f7279c40800ff636f75706f6e', NULL, '{inventory,coupon}', 3, '', '', false, '', NULL, '2026-11-27 23:43:17.840825+00', '2033-05-18 03:33:20.5+00', '2026-11-27 23:43:17.845305+00', '2026-11-27 23:43:17.847578+00', false, NULL, NULL, NULL, '');


--
-- Name: alembic_version alembic_version_pkc; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);


--
-- Name: audit_head audit_head_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.audit_head
    ADD CONSTRAINT audit_head_pkey PRIMARY KEY (id);


--
-- Name: audit audit_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.audit
    ADD CONSTRAINT audit_pkey PRIMARY KEY (sequence);


--
-- Name: coordinators coordinators_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.coordinators
    ADD CONSTRAINT coordinators_pkey PRIMARY KEY (id);


--
-- Name: migration_lock migration_lock_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.migration_lock
    ADD CONSTRAINT migration_lock_pkey PRIMARY KEY (id);


--
-- Name: participants participants_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.participants
    ADD CONSTRAINT participants_pkey PRIMARY KEY (name);


--
-- Name: transactions transactions_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.transactions
    ADD CONSTRAINT transactions_pkey PRIMARY KEY (gid);


--
-- Name: audit_target; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX audit_target ON public.audit USING btree (target, sequence);


--
-- Name: transactions_created; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX transactions_created ON public.transactions USING btree (created_at);


--
-- Name: transactions_owned; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX transactions_owned ON public.transactions USING btree (owner) WHERE ((next_attempt_at IS NULL) AND (ended_at IS NULL));


--
-- Name: transactions_parked; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX transactions_parked ON public.transactions USING btree (waiting_on, next_attempt_at) WHERE (next_attempt_at IS NOT NULL);


--
-- Name: transactions_parked_created; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX transactions_parked_created ON public.transactions USING btree (created_at) WHERE ((next_attempt_at IS NULL) IS FALSE);


--
-- Name: transactions_stuck; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX transactions_stuck ON public.transactions USING btree (created_at) WHERE (stuck AND (ended_at IS NULL));


--
-- PostgreSQL database dump complete
--


