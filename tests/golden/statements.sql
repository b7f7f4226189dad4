-- Every SQL statement of the project, rewritten by `pytest --rewrite`.
-- $1: a parameter of PostgreSQL; :name: a parameter of SQLAlchemy.
-- MySQL and MariaDB take one placeholder per value: shown for two branches.

-- # The transaction log

-- session (parameters: statement_timeout_ms)
SELECT known.name, set_config(known.name, wanted.value, false)
FROM pg_settings AS known
JOIN (VALUES
    ('search_path', 'tcc'),
    ('plan_cache_mode', CASE WHEN EXISTS (SELECT FROM pg_settings WHERE name = 'citus.node_conninfo')
                        THEN 'force_custom_plan' ELSE 'force_generic_plan' END),
    ('enable_seqscan', 'off'),
    ('enable_hashjoin', 'off'),
    ('enable_mergejoin', 'off'),
    ('jit', 'off'),
    ('synchronous_commit', 'on'),
    ('default_transaction_isolation', 'read committed'),
    ('default_transaction_deferrable', 'off'),
    ('TimeZone', 'UTC'),
    ('DateStyle', 'ISO'),
    ('IntervalStyle', 'postgres'),
    ('bytea_output', 'hex'),
    ('standard_conforming_strings', 'on'),
    ('lock_timeout', '0'),
    ('idle_in_transaction_session_timeout', '0'),
    ('idle_session_timeout', '0'),
    ('transaction_timeout', '0'),
    ('statement_timeout', $1::TEXT)
) AS wanted (name, value) ON wanted.name = known.name
WHERE known.name <> 'synchronous_commit' OR known.setting IN ('off', 'local');

-- lock_timeout (parameters: lock_timeout_ms)
SELECT set_config('lock_timeout', $1::TEXT, true);

-- begin (parameters: none)
BEGIN;

-- commit (parameters: none)
COMMIT;

-- rollback (parameters: none)
ROLLBACK;

-- transaction_get (parameters: gids)
SELECT tcc.transactions.gid, tcc.transactions.version, tcc.transactions.state, tcc.transactions.owner, tcc.transactions.interactive, tcc.transactions.initiator, CAST(tcc.transactions.labels AS TEXT) AS labels, tcc.transactions.fingerprint, tcc.transactions.branches, tcc.transactions.payloads, tcc.transactions.progress, tcc.transactions.cancel_reason, tcc.transactions.cancel_branch_id, tcc.transactions.cancel_detail, tcc.transactions.cancel_message, tcc.transactions.stuck, tcc.transactions.waiting_on, CAST(EXTRACT(epoch FROM tcc.transactions.next_attempt_at) AS DOUBLE PRECISION) AS anon_1, CAST(EXTRACT(epoch FROM tcc.transactions.created_at) AS DOUBLE PRECISION) AS anon_2, CAST(EXTRACT(epoch FROM tcc.transactions.expires_at) AS DOUBLE PRECISION) AS anon_3, CAST(EXTRACT(epoch FROM tcc.transactions.decided_at) AS DOUBLE PRECISION) AS anon_4, CAST(EXTRACT(epoch FROM tcc.transactions.ended_at) AS DOUBLE PRECISION) AS anon_5, tcc.transactions.adopted_from, tcc.transactions.trace, tcc.transactions.tenant
FROM tcc.transactions
WHERE tcc.transactions.gid = ANY ($1::TEXT[]);

-- transaction_begin (parameters: owner, gid, state, interactive, initiator, labels, fingerprint, branches, payloads, participants, expires_at, trace, tenant)
INSERT INTO tcc.transactions (gid, version, state, owner, interactive, initiator, labels, fingerprint, branches, payloads, participants, created_at, expires_at, decided_at, trace, tenant) SELECT anon_1.gid, 1, anon_1.state, $1::TEXT AS anon_2, anon_1.interactive, anon_1.initiator, CAST(anon_1.labels AS JSONB) AS labels, anon_1.fingerprint, anon_1.branches, anon_1.payloads, string_to_array(anon_1.participants, chr(10)) AS string_to_array_1, clock.moment, to_timestamp(anon_1.expires_at) AS to_timestamp_1, CASE WHEN (anon_1.state != 1) THEN clock.moment END AS anon_3, anon_1.trace, anon_1.tenant
FROM unnest($2::TEXT[], $3::SMALLINT[], $4::BOOLEAN[], $5::TEXT[], $6::TEXT[], $7::BYTEA[], $8::BYTEA[], $9::BYTEA[], $10::TEXT[], $11::DOUBLE PRECISION[], $12::TEXT[], $13::TEXT[]) AS anon_1(gid, state, interactive, initiator, labels, fingerprint, branches, payloads, participants, expires_at, trace, tenant) JOIN (SELECT now() AS moment) AS clock ON true ON CONFLICT (gid) DO NOTHING RETURNING tcc.transactions.gid;

-- transaction_save_plain (parameters: gid, version, state, owner)
UPDATE tcc.transactions SET version=(tcc.transactions.version + 1), state=anon_1.state, progress=NULL, cancel_reason=0, cancel_detail='', stuck=false, waiting_on='', decided_at=CASE WHEN (anon_1.state != 1) THEN coalesce(tcc.transactions.decided_at, clock.moment) END, ended_at=CASE WHEN (anon_1.state IN (4, 5)) THEN clock.moment END FROM unnest($1::TEXT[], $2::BIGINT[], $3::SMALLINT[]) AS anon_1(gid, version, state), (SELECT now() AS moment) AS clock WHERE tcc.transactions.gid = ANY (ARRAY[anon_1.gid]) AND tcc.transactions.version = anon_1.version AND tcc.transactions.owner = $4::TEXT AND coalesce(tcc.transactions.next_attempt_at, tcc.transactions.ended_at) IS NULL AND (tcc.transactions.state = anon_1.state OR tcc.transactions.state = 1 AND anon_1.state = 2 OR tcc.transactions.state = 1 AND anon_1.state = 3 OR tcc.transactions.state = 1 AND anon_1.state = 4 OR tcc.transactions.state = 1 AND anon_1.state = 5 OR tcc.transactions.state = 2 AND anon_1.state = 4 OR tcc.transactions.state = 3 AND anon_1.state = 5);

-- transaction_save_full (parameters: gid, version, state, progress, cancel_reason, cancel_branch_id, cancel_detail, cancel_message, stuck, waiting_on, next_attempt_at, branches, payloads, participants, owner)
UPDATE tcc.transactions SET version=(tcc.transactions.version + 1), state=anon_1.state, branches=coalesce(anon_1.branches, tcc.transactions.branches), payloads=coalesce(anon_1.payloads, tcc.transactions.payloads), progress=anon_1.progress, participants=coalesce(string_to_array(anon_1.participants, chr(10)), tcc.transactions.participants), cancel_reason=anon_1.cancel_reason, cancel_branch_id=anon_1.cancel_branch_id, cancel_detail=anon_1.cancel_detail, cancel_message=anon_1.cancel_message, stuck=anon_1.stuck, waiting_on=anon_1.waiting_on, next_attempt_at=to_timestamp(anon_1.next_attempt_at), decided_at=CASE WHEN (anon_1.state != 1) THEN coalesce(tcc.transactions.decided_at, clock.moment) END, ended_at=CASE WHEN (anon_1.state IN (4, 5)) THEN clock.moment END FROM unnest($1::TEXT[], $2::BIGINT[], $3::SMALLINT[], $4::BYTEA[], $5::SMALLINT[], $6::TEXT[], $7::TEXT[], $8::TEXT[], $9::BOOLEAN[], $10::TEXT[], $11::DOUBLE PRECISION[], $12::BYTEA[], $13::BYTEA[], $14::TEXT[]) AS anon_1(gid, version, state, progress, cancel_reason, cancel_branch_id, cancel_detail, cancel_message, stuck, waiting_on, next_attempt_at, branches, payloads, participants), (SELECT now() AS moment) AS clock WHERE tcc.transactions.gid = ANY (ARRAY[anon_1.gid]) AND tcc.transactions.version = anon_1.version AND tcc.transactions.owner = $15::TEXT AND coalesce(tcc.transactions.next_attempt_at, tcc.transactions.ended_at) IS NULL AND (tcc.transactions.state = anon_1.state OR tcc.transactions.state = 1 AND anon_1.state = 2 OR tcc.transactions.state = 1 AND anon_1.state = 3 OR tcc.transactions.state = 1 AND anon_1.state = 4 OR tcc.transactions.state = 1 AND anon_1.state = 5 OR tcc.transactions.state = 2 AND anon_1.state = 4 OR tcc.transactions.state = 3 AND anon_1.state = 5);

-- transaction_next_waited_for (parameters: after)
SELECT tcc.transactions.waiting_on
FROM tcc.transactions
WHERE tcc.transactions.next_attempt_at IS NOT NULL AND tcc.transactions.waiting_on > $1::TEXT ORDER BY tcc.transactions.waiting_on
 LIMIT 1;

-- transaction_take (parameters: owner, claim, gid, version)
UPDATE tcc.transactions SET version=(tcc.transactions.version + 1), owner=$1::TEXT, claim=$2::TEXT, waiting_on='', next_attempt_at=NULL FROM (SELECT $3::TEXT AS gid) AS wanted WHERE tcc.transactions.gid = ANY (ARRAY[wanted.gid]) AND tcc.transactions.version = $4::BIGINT AND tcc.transactions.ended_at IS NULL RETURNING tcc.transactions.gid, tcc.transactions.version, tcc.transactions.state, tcc.transactions.owner, tcc.transactions.interactive, tcc.transactions.initiator, CAST(tcc.transactions.labels AS TEXT) AS labels, tcc.transactions.fingerprint, tcc.transactions.branches, tcc.transactions.payloads, tcc.transactions.progress, tcc.transactions.cancel_reason, tcc.transactions.cancel_branch_id, tcc.transactions.cancel_detail, tcc.transactions.cancel_message, tcc.transactions.stuck, tcc.transactions.waiting_on, CAST(EXTRACT(epoch FROM tcc.transactions.next_attempt_at - to_timestamp(0)) AS DOUBLE PRECISION) AS anon_1, CAST(EXTRACT(epoch FROM tcc.transactions.created_at - to_timestamp(0)) AS DOUBLE PRECISION) AS anon_2, CAST(EXTRACT(epoch FROM tcc.transactions.expires_at - to_timestamp(0)) AS DOUBLE PRECISION) AS anon_3, CAST(EXTRACT(epoch FROM tcc.transactions.decided_at - to_timestamp(0)) AS DOUBLE PRECISION) AS anon_4, CAST(EXTRACT(epoch FROM tcc.transactions.ended_at - to_timestamp(0)) AS DOUBLE PRECISION) AS anon_5, tcc.transactions.adopted_from, tcc.transactions.trace, tcc.transactions.tenant;

-- transaction_claim_due (parameters: owner, claim, waiting_on, most)
WITH chosen AS
(SELECT due.gid AS gid
FROM unnest($3::TEXT[], $4::BIGINT[]) AS anon_1(waiting_on, most) JOIN LATERAL (SELECT tcc.transactions.gid AS gid
FROM tcc.transactions
WHERE tcc.transactions.next_attempt_at <= now() AND tcc.transactions.waiting_on = anon_1.waiting_on ORDER BY tcc.transactions.next_attempt_at
 LIMIT anon_1.most FOR UPDATE SKIP LOCKED) AS due ON true)
 UPDATE tcc.transactions SET version=(tcc.transactions.version + 1), owner=$1::TEXT, claim=$2::TEXT, waiting_on='', next_attempt_at=NULL FROM chosen WHERE tcc.transactions.gid = ANY (ARRAY[chosen.gid]) RETURNING tcc.transactions.gid, tcc.transactions.version, tcc.transactions.state, tcc.transactions.owner, tcc.transactions.interactive, tcc.transactions.initiator, CAST(tcc.transactions.labels AS TEXT) AS labels, tcc.transactions.fingerprint, tcc.transactions.branches, tcc.transactions.payloads, tcc.transactions.progress, tcc.transactions.cancel_reason, tcc.transactions.cancel_branch_id, tcc.transactions.cancel_detail, tcc.transactions.cancel_message, tcc.transactions.stuck, tcc.transactions.waiting_on, CAST(EXTRACT(epoch FROM tcc.transactions.next_attempt_at - to_timestamp(0)) AS DOUBLE PRECISION) AS anon_2, CAST(EXTRACT(epoch FROM tcc.transactions.created_at - to_timestamp(0)) AS DOUBLE PRECISION) AS anon_3, CAST(EXTRACT(epoch FROM tcc.transactions.expires_at - to_timestamp(0)) AS DOUBLE PRECISION) AS anon_4, CAST(EXTRACT(epoch FROM tcc.transactions.decided_at - to_timestamp(0)) AS DOUBLE PRECISION) AS anon_5, CAST(EXTRACT(epoch FROM tcc.transactions.ended_at - to_timestamp(0)) AS DOUBLE PRECISION) AS anon_6, tcc.transactions.adopted_from, tcc.transactions.trace, tcc.transactions.tenant;

-- transaction_adopt (parameters: owner, claim, limit)
WITH dead AS
(SELECT tcc.coordinators.id AS id
FROM tcc.coordinators
WHERE tcc.coordinators.lease_until <= now() AND tcc.coordinators.id != $1::TEXT),
chosen AS
(SELECT left_behind.gid AS gid
FROM dead JOIN LATERAL (SELECT tcc.transactions.gid AS gid
FROM tcc.transactions
WHERE tcc.transactions.owner = ANY (ARRAY[dead.id]) AND tcc.transactions.next_attempt_at IS NULL AND tcc.transactions.ended_at IS NULL
 LIMIT $3::BIGINT FOR UPDATE SKIP LOCKED) AS left_behind ON true
 LIMIT $3::BIGINT)
 UPDATE tcc.transactions SET version=(tcc.transactions.version + 1), owner=$1::TEXT, claim=$2::TEXT, waiting_on='', next_attempt_at=NULL, adopted_at=now(), adopted_from=tcc.transactions.owner FROM chosen WHERE tcc.transactions.gid = ANY (ARRAY[chosen.gid]) RETURNING tcc.transactions.gid, tcc.transactions.version, tcc.transactions.state, tcc.transactions.owner, tcc.transactions.interactive, tcc.transactions.initiator, CAST(tcc.transactions.labels AS TEXT) AS labels, tcc.transactions.fingerprint, tcc.transactions.branches, tcc.transactions.payloads, tcc.transactions.progress, tcc.transactions.cancel_reason, tcc.transactions.cancel_branch_id, tcc.transactions.cancel_detail, tcc.transactions.cancel_message, tcc.transactions.stuck, tcc.transactions.waiting_on, CAST(EXTRACT(epoch FROM tcc.transactions.next_attempt_at - to_timestamp(0)) AS DOUBLE PRECISION) AS anon_1, CAST(EXTRACT(epoch FROM tcc.transactions.created_at - to_timestamp(0)) AS DOUBLE PRECISION) AS anon_2, CAST(EXTRACT(epoch FROM tcc.transactions.expires_at - to_timestamp(0)) AS DOUBLE PRECISION) AS anon_3, CAST(EXTRACT(epoch FROM tcc.transactions.decided_at - to_timestamp(0)) AS DOUBLE PRECISION) AS anon_4, CAST(EXTRACT(epoch FROM tcc.transactions.ended_at - to_timestamp(0)) AS DOUBLE PRECISION) AS anon_5, tcc.transactions.adopted_from, tcc.transactions.trace, tcc.transactions.tenant;

-- transaction_find_claimed (parameters: owner, claims)
SELECT tcc.transactions.gid, tcc.transactions.version, tcc.transactions.state, tcc.transactions.owner, tcc.transactions.interactive, tcc.transactions.initiator, CAST(tcc.transactions.labels AS TEXT) AS labels, tcc.transactions.fingerprint, tcc.transactions.branches, tcc.transactions.payloads, tcc.transactions.progress, tcc.transactions.cancel_reason, tcc.transactions.cancel_branch_id, tcc.transactions.cancel_detail, tcc.transactions.cancel_message, tcc.transactions.stuck, tcc.transactions.waiting_on, CAST(EXTRACT(epoch FROM tcc.transactions.next_attempt_at) AS DOUBLE PRECISION) AS anon_1, CAST(EXTRACT(epoch FROM tcc.transactions.created_at) AS DOUBLE PRECISION) AS anon_2, CAST(EXTRACT(epoch FROM tcc.transactions.expires_at) AS DOUBLE PRECISION) AS anon_3, CAST(EXTRACT(epoch FROM tcc.transactions.decided_at) AS DOUBLE PRECISION) AS anon_4, CAST(EXTRACT(epoch FROM tcc.transactions.ended_at) AS DOUBLE PRECISION) AS anon_5, tcc.transactions.adopted_from, tcc.transactions.trace, tcc.transactions.tenant
FROM tcc.transactions
WHERE tcc.transactions.owner = $1::TEXT AND tcc.transactions.next_attempt_at IS NULL AND tcc.transactions.ended_at IS NULL AND tcc.transactions.claim = ANY ($2::TEXT[]);

-- transaction_quarantine (parameters: held, gid, version)
UPDATE tcc.transactions SET version=(tcc.transactions.version + 1), waiting_on='', next_attempt_at=to_timestamp(CAST($1 AS DOUBLE PRECISION)) WHERE tcc.transactions.gid = $2::TEXT AND tcc.transactions.version = $3::BIGINT AND tcc.transactions.ended_at IS NULL;

-- transaction_find_due (parameters: waiting_on, known, limit)
SELECT tcc.transactions.gid, tcc.transactions.version
FROM tcc.transactions
WHERE tcc.transactions.next_attempt_at <= now() AND tcc.transactions.waiting_on = ANY ($1::TEXT[]) AND (tcc.transactions.gid NOT IN (SELECT unnest($2::TEXT[]) AS unnest_1)) ORDER BY tcc.transactions.next_attempt_at
 LIMIT $3::BIGINT;

-- transaction_find_left (parameters: owner, known, limit)
SELECT tcc.transactions.gid, tcc.transactions.version
FROM tcc.transactions JOIN tcc.coordinators ON tcc.transactions.owner = ANY (ARRAY[tcc.coordinators.id]) AND tcc.transactions.next_attempt_at IS NULL AND tcc.transactions.ended_at IS NULL
WHERE tcc.coordinators.lease_until <= now() AND tcc.coordinators.id != $1::TEXT AND (tcc.transactions.gid NOT IN (SELECT unnest($2::TEXT[]) AS unnest_1))
 LIMIT $3::BIGINT;

-- transaction_release (parameters: owner)
UPDATE tcc.transactions SET version=(tcc.transactions.version + 1), waiting_on='', next_attempt_at=now() WHERE tcc.transactions.owner = $1::TEXT AND tcc.transactions.next_attempt_at IS NULL AND tcc.transactions.ended_at IS NULL;

-- transaction_purge (parameters: ended_before_s, limit)
WITH "old" AS
(SELECT tcc.transactions.gid AS gid
FROM tcc.transactions
WHERE tcc.transactions.created_at < now() - CAST($1 AS DOUBLE PRECISION) * INTERVAL '1 second' AND tcc.transactions.ended_at < now() - CAST($1 AS DOUBLE PRECISION) * INTERVAL '1 second' AND tcc.transactions.state IN (4, 5) AND tcc.transactions.heuristic IS false ORDER BY tcc.transactions.created_at
 LIMIT $2::BIGINT FOR UPDATE SKIP LOCKED)
 DELETE FROM tcc.transactions USING "old" WHERE tcc.transactions.gid = ANY (ARRAY["old".gid]);

-- transaction_find_old (parameters: ended_before_s, known, limit)
SELECT tcc.transactions.gid, tcc.transactions.version
FROM tcc.transactions
WHERE tcc.transactions.created_at < now() - CAST($1 AS DOUBLE PRECISION) * INTERVAL '1 second' AND tcc.transactions.ended_at < now() - CAST($1 AS DOUBLE PRECISION) * INTERVAL '1 second' AND tcc.transactions.state IN (4, 5) AND tcc.transactions.heuristic IS false AND (tcc.transactions.gid NOT IN (SELECT unnest($2::TEXT[]) AS unnest_1)) ORDER BY tcc.transactions.created_at
 LIMIT $3::BIGINT;

-- transaction_purge_one (parameters: gid, ended_before_s)
DELETE FROM tcc.transactions WHERE tcc.transactions.gid = $1::TEXT AND tcc.transactions.created_at < now() - CAST($2 AS DOUBLE PRECISION) * INTERVAL '1 second' AND tcc.transactions.ended_at < now() - CAST($2 AS DOUBLE PRECISION) * INTERVAL '1 second' AND tcc.transactions.state IN (4, 5) AND tcc.transactions.heuristic IS false;

-- coordinator_forget (parameters: gone_for_s)
DELETE FROM tcc.coordinators WHERE tcc.coordinators.lease_until < now() - CAST($1 AS DOUBLE PRECISION) * INTERVAL '1 second' AND (SELECT tcc.transactions.gid
FROM tcc.transactions
WHERE tcc.transactions.owner = ANY (ARRAY[tcc.coordinators.id]) AND tcc.transactions.next_attempt_at IS NULL AND tcc.transactions.ended_at IS NULL
 LIMIT 1) IS NULL;

-- coordinator_heartbeat (parameters: owner, name, lease_s)
INSERT INTO tcc.coordinators (id, name, started_at, lease_until) VALUES ($1::TEXT, $2::TEXT, now(), (now() + CAST($3 AS DOUBLE PRECISION) * INTERVAL '1 second')) ON CONFLICT (id) DO UPDATE SET name = excluded.name, lease_until = excluded.lease_until RETURNING CAST(EXTRACT(epoch FROM tcc.coordinators.lease_until - to_timestamp(0)) AS DOUBLE PRECISION) AS anon_1;

-- coordinator_find_unknown (parameters: none)
WITH RECURSIVE owners(owner) AS
(SELECT '' COLLATE "C" AS owner UNION ALL SELECT following.owner AS owner
FROM owners JOIN LATERAL (SELECT tcc.transactions.owner AS owner
FROM tcc.transactions
WHERE tcc.transactions.next_attempt_at IS NULL AND tcc.transactions.ended_at IS NULL AND tcc.transactions.owner > owners.owner ORDER BY tcc.transactions.owner
 LIMIT 1) AS following ON true)
 SELECT owners.owner
FROM owners
WHERE owners.owner != '' AND (owners.owner NOT IN (SELECT tcc.coordinators.id
FROM tcc.coordinators));

-- coordinator_register_unknown (parameters: lease_s, id)
INSERT INTO tcc.coordinators (id, name, started_at, lease_until) SELECT anon_1.id, 'unknown', now() AS now_1, now() + CAST($1 AS DOUBLE PRECISION) * INTERVAL '1 second' AS anon_2
FROM unnest($2::TEXT[]) AS anon_1(id) ON CONFLICT (id) DO NOTHING RETURNING tcc.coordinators.id;

-- coordinator_leave (parameters: owner)
UPDATE tcc.coordinators SET lease_until=now() WHERE tcc.coordinators.id = $1::TEXT;

-- erasure_position (parameters: name)
SELECT tcc.erasures.moment, tcc.erasures.gid
FROM tcc.erasures
WHERE tcc.erasures.name = $1::TEXT;

-- erasure_position_set (parameters: name, moment, gid)
INSERT INTO tcc.erasures (name, moment, gid) VALUES ($1::TEXT, $2::TIMESTAMP WITH TIME ZONE, $3::TEXT) ON CONFLICT (name) DO UPDATE SET moment = excluded.moment, gid = excluded.gid WHERE (tcc.erasures.moment, tcc.erasures.gid) < (excluded.moment, excluded.gid);

-- erasable_created (parameters: moment, gid, before_s, limit)
SELECT tcc.transactions.gid, tcc.transactions.version, tcc.transactions.created_at, CASE WHEN (tcc.transactions.ended_at - tcc.transactions.created_at <= INTERVAL '10 minutes') THEN tcc.transactions.branches ELSE NULL END AS anon_1, CASE WHEN (tcc.transactions.ended_at - tcc.transactions.created_at <= INTERVAL '10 minutes') THEN tcc.transactions.progress ELSE NULL END AS anon_2
FROM tcc.transactions
WHERE (tcc.transactions.created_at, tcc.transactions.gid) > ($1::TIMESTAMP WITH TIME ZONE, $2::TEXT) AND tcc.transactions.created_at < now() - CAST($3 AS DOUBLE PRECISION) * INTERVAL '1 second' ORDER BY tcc.transactions.created_at, tcc.transactions.gid
 LIMIT $4::BIGINT;

-- erasable_ended_late (parameters: moment, gid, before_s, limit)
SELECT tcc.transactions.gid, tcc.transactions.version, tcc.transactions.ended_at, CASE WHEN (tcc.transactions.ended_at - tcc.transactions.created_at > INTERVAL '10 minutes') THEN tcc.transactions.branches ELSE NULL END AS anon_1, CASE WHEN (tcc.transactions.ended_at - tcc.transactions.created_at > INTERVAL '10 minutes') THEN tcc.transactions.progress ELSE NULL END AS anon_2
FROM tcc.transactions
WHERE (tcc.transactions.ended_at, tcc.transactions.gid) > ($1::TIMESTAMP WITH TIME ZONE, $2::TEXT) AND tcc.transactions.ended_at < now() - CAST($3 AS DOUBLE PRECISION) * INTERVAL '1 second' AND tcc.transactions.ended_at - tcc.transactions.created_at > INTERVAL '10 minutes' ORDER BY tcc.transactions.ended_at, tcc.transactions.gid
 LIMIT $4::BIGINT;

-- payloads_erase (parameters: gid, version, branches, payloads, progress)
UPDATE tcc.transactions SET version=(tcc.transactions.version + 1), branches=anon_1.branches, payloads=anon_1.payloads, progress=anon_1.progress FROM unnest($1::TEXT[], $2::BIGINT[], $3::BYTEA[], $4::BYTEA[], $5::BYTEA[]) AS anon_1(gid, version, branches, payloads, progress) WHERE tcc.transactions.gid = ANY (ARRAY[anon_1.gid]) AND tcc.transactions.version = anon_1.version AND tcc.transactions.ended_at IS NOT NULL;

-- transaction_brief (parameters: gids)
SELECT tcc.transactions.gid, tcc.transactions.version, tcc.transactions.state, tcc.transactions.owner, tcc.transactions.interactive, tcc.transactions.initiator, CAST(tcc.transactions.labels AS TEXT) AS labels, tcc.transactions.fingerprint, tcc.transactions.branches, NULL AS anon_1, tcc.transactions.progress, tcc.transactions.cancel_reason, tcc.transactions.cancel_branch_id, tcc.transactions.cancel_detail, tcc.transactions.cancel_message, tcc.transactions.stuck, tcc.transactions.waiting_on, CAST(EXTRACT(epoch FROM tcc.transactions.next_attempt_at) AS DOUBLE PRECISION) AS anon_2, CAST(EXTRACT(epoch FROM tcc.transactions.created_at) AS DOUBLE PRECISION) AS anon_3, CAST(EXTRACT(epoch FROM tcc.transactions.expires_at) AS DOUBLE PRECISION) AS anon_4, CAST(EXTRACT(epoch FROM tcc.transactions.decided_at) AS DOUBLE PRECISION) AS anon_5, CAST(EXTRACT(epoch FROM tcc.transactions.ended_at) AS DOUBLE PRECISION) AS anon_6, tcc.transactions.adopted_from, tcc.transactions.trace, tcc.transactions.tenant
FROM tcc.transactions
WHERE tcc.transactions.gid = ANY ($1::TEXT[]);

-- transaction_command (parameters: state, progress, cancel_reason, cancel_branch_id, cancel_detail, cancel_message, stuck, waiting_on, next_attempt_at, heuristic, gid, version)
UPDATE tcc.transactions SET version=(tcc.transactions.version + 1), state=$1::SMALLINT, owner='', progress=CAST($2 AS BYTEA), cancel_reason=$3::SMALLINT, cancel_branch_id=$4::TEXT, cancel_detail=$5::TEXT, cancel_message=$6::TEXT, stuck=CAST($7 AS BOOLEAN), waiting_on=$8::TEXT, next_attempt_at=to_timestamp(CAST($9 AS DOUBLE PRECISION)), decided_at=CASE WHEN ($1::SMALLINT != 1) THEN coalesce(tcc.transactions.decided_at, clock.moment) END, ended_at=CASE WHEN ($1::SMALLINT IN (4, 5)) THEN clock.moment END, heuristic=CAST($10 AS BOOLEAN) FROM (SELECT now() AS moment) AS clock WHERE tcc.transactions.gid = $11::TEXT AND tcc.transactions.version = $12::BIGINT AND tcc.transactions.ended_at IS NULL AND (tcc.transactions.state = $1::SMALLINT OR tcc.transactions.state = 1 AND $1::SMALLINT = 2 OR tcc.transactions.state = 1 AND $1::SMALLINT = 3 OR tcc.transactions.state = 1 AND $1::SMALLINT = 4 OR tcc.transactions.state = 1 AND $1::SMALLINT = 5 OR tcc.transactions.state = 2 AND $1::SMALLINT = 4 OR tcc.transactions.state = 3 AND $1::SMALLINT = 5);

-- transaction_adoption (parameters: gid)
SELECT CAST(EXTRACT(epoch FROM tcc.transactions.adopted_at) AS DOUBLE PRECISION) AS anon_1, tcc.transactions.adopted_from
FROM tcc.transactions
WHERE tcc.transactions.gid = $1::TEXT AND tcc.transactions.adopted_at IS NOT NULL;

-- transaction_count_marked (parameters: most)
SELECT CAST(EXTRACT(epoch FROM clock_timestamp()) AS DOUBLE PRECISION) AS anon_1, (SELECT count(*) AS count_1
FROM (SELECT 1
FROM tcc.transactions
WHERE tcc.transactions.stuck AND tcc.transactions.ended_at IS NULL ORDER BY tcc.transactions.created_at
 LIMIT $1::BIGINT) AS anon_3) AS anon_2, (SELECT count(*) AS count_2
FROM (SELECT 1
FROM tcc.transactions
WHERE tcc.transactions.waiting_on = '' AND tcc.transactions.next_attempt_at IS NOT NULL AND tcc.transactions.next_attempt_at > now() + INTERVAL '1000 years' ORDER BY tcc.transactions.next_attempt_at
 LIMIT $1::BIGINT) AS anon_5) AS anon_4;

-- transaction_count_backlog (parameters: most)
WITH RECURSIVE waited_for(waiting_on) AS
(SELECT CAST('' AS TEXT) AS waiting_on UNION ALL SELECT following.waiting_on AS waiting_on
FROM waited_for JOIN LATERAL (SELECT tcc.transactions.waiting_on AS waiting_on
FROM tcc.transactions
WHERE tcc.transactions.next_attempt_at IS NOT NULL AND tcc.transactions.waiting_on > waited_for.waiting_on ORDER BY tcc.transactions.waiting_on
 LIMIT 1) AS following ON true)
 SELECT CAST(NULL AS TEXT) AS anon_1, tcc.transactions.state, count(*) AS count_1
FROM tcc.transactions
WHERE tcc.transactions.next_attempt_at IS NULL AND tcc.transactions.ended_at IS NULL GROUP BY tcc.transactions.state UNION ALL SELECT waited_for.waiting_on, parked.state, count(*) AS count_2
FROM waited_for JOIN LATERAL (SELECT tcc.transactions.state AS state
FROM tcc.transactions
WHERE tcc.transactions.next_attempt_at IS NOT NULL AND tcc.transactions.waiting_on = waited_for.waiting_on ORDER BY tcc.transactions.next_attempt_at
 LIMIT $1::BIGINT) AS parked ON true GROUP BY 1, 2;

-- transaction_oldest_backlog (parameters: none)
SELECT anon_1.gid, anon_1.anon_2
FROM (SELECT tcc.transactions.gid AS gid, CAST(EXTRACT(epoch FROM tcc.transactions.created_at) AS DOUBLE PRECISION) AS anon_2
FROM tcc.transactions
WHERE tcc.transactions.next_attempt_at IS NULL AND tcc.transactions.ended_at IS NULL ORDER BY tcc.transactions.created_at + INTERVAL '0 seconds', tcc.transactions.gid
 LIMIT 1) AS anon_1 UNION ALL SELECT anon_3.gid, anon_3.anon_2
FROM (SELECT tcc.transactions.gid AS gid, CAST(EXTRACT(epoch FROM tcc.transactions.created_at) AS DOUBLE PRECISION) AS anon_2
FROM tcc.transactions
WHERE (tcc.transactions.next_attempt_at IS NULL) IS false ORDER BY tcc.transactions.created_at
 LIMIT 1) AS anon_3;

-- participant_list (parameters: none)
SELECT tcc.participants.name, tcc.participants.version, tcc.participants.paused, tcc.participants.breaker_resets, tcc.participants.operator, tcc.participants.reason, CAST(EXTRACT(epoch FROM tcc.participants.changed_at) AS DOUBLE PRECISION) AS anon_1
FROM tcc.participants;

-- participant_insert (parameters: name, paused, breaker_resets, operator, reason)
INSERT INTO tcc.participants (name, version, paused, breaker_resets, operator, reason, changed_at) VALUES ($1::TEXT, 1, CAST($2 AS BOOLEAN), $3::BIGINT, $4::TEXT, $5::TEXT, now()) ON CONFLICT (name) DO NOTHING RETURNING tcc.participants.name;

-- participant_update (parameters: paused, breaker_resets, operator, reason, name, version)
UPDATE tcc.participants SET version=(tcc.participants.version + 1), paused=CAST($1 AS BOOLEAN), breaker_resets=$2::BIGINT, operator=$3::TEXT, reason=$4::TEXT, changed_at=now() WHERE tcc.participants.name = $5::TEXT AND tcc.participants.version = $6::BIGINT;

-- coordinator_list (parameters: none)
SELECT tcc.coordinators.id, tcc.coordinators.name, CAST(EXTRACT(epoch FROM tcc.coordinators.started_at) AS DOUBLE PRECISION) AS anon_1, CAST(EXTRACT(epoch FROM tcc.coordinators.lease_until) AS DOUBLE PRECISION) AS anon_2, tcc.coordinators.lease_until > now() AS anon_3, CAST(EXTRACT(epoch FROM tcc.coordinators.drain_requested_at) AS DOUBLE PRECISION) AS anon_4, CAST(EXTRACT(epoch FROM tcc.coordinators.reported_at) AS DOUBLE PRECISION) AS anon_5, tcc.coordinators.report
FROM tcc.coordinators ORDER BY tcc.coordinators.started_at, tcc.coordinators.id;

-- coordinator_owned (parameters: none)
SELECT tcc.transactions.owner, count(*) AS count_1
FROM tcc.transactions
WHERE tcc.transactions.next_attempt_at IS NULL AND tcc.transactions.ended_at IS NULL GROUP BY 1;

-- coordinator_drain (parameters: id)
UPDATE tcc.coordinators SET drain_requested_at=now() WHERE tcc.coordinators.id = $1::TEXT AND tcc.coordinators.lease_until > now() AND tcc.coordinators.drain_requested_at IS NULL;

-- coordinator_report (parameters: report, owner)
UPDATE tcc.coordinators SET report=CAST($1 AS BYTEA), reported_at=now() WHERE tcc.coordinators.id = $2::TEXT RETURNING tcc.coordinators.drain_requested_at IS NOT NULL AS anon_1;

-- confirmation_key (parameters: none)
SELECT tcc.coordinator_secrets.value
FROM tcc.coordinator_secrets
WHERE tcc.coordinator_secrets.name = 'confirmation';

-- audit_head (parameters: none)
SELECT anon_1.sequence, anon_1.hash, anon_1.at_us, anon_2.now
FROM (SELECT CAST(EXTRACT(epoch FROM clock_timestamp()) AS DOUBLE PRECISION) AS now) AS anon_2 LEFT OUTER JOIN (SELECT tcc.audit.sequence AS sequence, tcc.audit.hash AS hash, tcc.audit.at_us AS at_us
FROM tcc.audit ORDER BY tcc.audit.sequence DESC
 LIMIT 1) AS anon_1 ON true;

-- audit_insert (parameters: sequence, at_us, operator, action, target, reason, detail, previous_hash, hash, on_behalf_of, method, peer, credential, role)
INSERT INTO tcc.audit (sequence, at_us, operator, action, target, reason, detail, previous_hash, hash, on_behalf_of, method, peer, credential, role) VALUES ($1::BIGINT, $2::BIGINT, $3::TEXT, $4::TEXT, $5::TEXT, $6::TEXT, $7::TEXT, CAST($8 AS BYTEA), CAST($9 AS BYTEA), $10::TEXT, $11::TEXT, $12::TEXT, $13::TEXT, $14::TEXT) ON CONFLICT (sequence) DO NOTHING RETURNING tcc.audit.sequence;

-- audit_head_insert (parameters: sequence, hash, at_us, key_id, signature)
INSERT INTO tcc.audit_heads (sequence, hash, at_us, key_id, signature) VALUES ($1::BIGINT, CAST($2 AS BYTEA), $3::BIGINT, $4::TEXT, CAST($5 AS BYTEA));

-- audit_head_list (parameters: key_id, limit)
SELECT tcc.audit_heads.sequence, tcc.audit_heads.hash, tcc.audit_heads.at_us, tcc.audit_heads.key_id, tcc.audit_heads.signature
FROM tcc.audit_heads
WHERE tcc.audit_heads.key_id = $1::TEXT ORDER BY tcc.audit_heads.sequence DESC, tcc.audit_heads.at_us DESC
 LIMIT $2::BIGINT;

-- audit_get (parameters: sequence)
SELECT tcc.audit.sequence, tcc.audit.at_us, tcc.audit.operator, tcc.audit.action, tcc.audit.target, tcc.audit.reason, tcc.audit.detail, tcc.audit.on_behalf_of, tcc.audit.method, tcc.audit.peer, tcc.audit.credential, tcc.audit.role, tcc.audit.previous_hash, tcc.audit.hash
FROM tcc.audit
WHERE tcc.audit.sequence = $1::BIGINT;

-- audit_after (parameters: sequence, limit)
SELECT tcc.audit.sequence, tcc.audit.at_us, tcc.audit.operator, tcc.audit.action, tcc.audit.target, tcc.audit.reason, tcc.audit.detail, tcc.audit.on_behalf_of, tcc.audit.method, tcc.audit.peer, tcc.audit.credential, tcc.audit.role, tcc.audit.previous_hash, tcc.audit.hash
FROM tcc.audit
WHERE tcc.audit.sequence > $1::BIGINT ORDER BY tcc.audit.sequence
 LIMIT $2::BIGINT;

-- transaction_begin of 2 (parameters: gid_0, state_0, owner, interactive_0, initiator_0, labels_0, fingerprint_0, branches_0, payloads_0, participants_0, expires_at_0, trace_0, tenant_0, gid_1, state_1, interactive_1, initiator_1, labels_1, fingerprint_1, branches_1, payloads_1, participants_1, expires_at_1, trace_1, tenant_1)
INSERT INTO tcc.transactions (gid, version, state, owner, interactive, initiator, labels, fingerprint, branches, payloads, participants, created_at, expires_at, decided_at, trace, tenant) VALUES (CAST($1::TEXT AS TEXT), 1, CAST($2::SMALLINT AS SMALLINT), $3::TEXT, CAST($4 AS BOOLEAN), CAST($5::TEXT AS TEXT), CAST(CAST($6::TEXT AS TEXT) AS JSONB), CAST($7 AS BYTEA), CAST($8 AS BYTEA), CAST($9 AS BYTEA), string_to_array(CAST($10::TEXT AS TEXT), chr(10)), now(), to_timestamp(CAST($11 AS DOUBLE PRECISION)), (now() + CASE WHEN (CAST($2::SMALLINT AS SMALLINT) != 1) THEN INTERVAL '0 seconds' END), CAST($12::TEXT AS TEXT), CAST($13::TEXT AS TEXT)), (CAST($14::TEXT AS TEXT), 1, CAST($15::SMALLINT AS SMALLINT), $3::TEXT, CAST($16 AS BOOLEAN), CAST($17::TEXT AS TEXT), CAST(CAST($18::TEXT AS TEXT) AS JSONB), CAST($19 AS BYTEA), CAST($20 AS BYTEA), CAST($21 AS BYTEA), string_to_array(CAST($22::TEXT AS TEXT), chr(10)), now(), to_timestamp(CAST($23 AS DOUBLE PRECISION)), (now() + CASE WHEN (CAST($15::SMALLINT AS SMALLINT) != 1) THEN INTERVAL '0 seconds' END), CAST($24::TEXT AS TEXT), CAST($25::TEXT AS TEXT)) ON CONFLICT (gid) DO NOTHING RETURNING tcc.transactions.gid;

-- audit_list (parameters: operator, target, action, before, before_us, limit)
SELECT tcc.audit.sequence, tcc.audit.at_us, tcc.audit.operator, tcc.audit.action, tcc.audit.target, tcc.audit.reason, tcc.audit.detail, tcc.audit.on_behalf_of, tcc.audit.method, tcc.audit.peer, tcc.audit.credential, tcc.audit.role, tcc.audit.previous_hash, tcc.audit.hash
FROM tcc.audit
WHERE tcc.audit.operator = $1::TEXT AND tcc.audit.target = $2::TEXT AND tcc.audit.action = $3::TEXT AND tcc.audit.sequence < $4::BIGINT AND tcc.audit.at_us < $5::BIGINT ORDER BY tcc.audit.sequence DESC
 LIMIT $6::BIGINT;

-- transaction_list (parameters: after_created_at, after_gid, limit)
SELECT tcc.transactions.gid, tcc.transactions.version, tcc.transactions.state, tcc.transactions.owner, tcc.transactions.interactive, tcc.transactions.initiator, CAST(tcc.transactions.labels AS TEXT) AS labels, tcc.transactions.fingerprint, tcc.transactions.branches, NULL AS anon_1, tcc.transactions.progress, tcc.transactions.cancel_reason, tcc.transactions.cancel_branch_id, tcc.transactions.cancel_detail, tcc.transactions.cancel_message, tcc.transactions.stuck, tcc.transactions.waiting_on, CAST(EXTRACT(epoch FROM tcc.transactions.next_attempt_at) AS DOUBLE PRECISION) AS anon_2, CAST(EXTRACT(epoch FROM tcc.transactions.created_at) AS DOUBLE PRECISION) AS anon_3, CAST(EXTRACT(epoch FROM tcc.transactions.expires_at) AS DOUBLE PRECISION) AS anon_4, CAST(EXTRACT(epoch FROM tcc.transactions.decided_at) AS DOUBLE PRECISION) AS anon_5, CAST(EXTRACT(epoch FROM tcc.transactions.ended_at) AS DOUBLE PRECISION) AS anon_6, tcc.transactions.adopted_from, tcc.transactions.trace, tcc.transactions.tenant
FROM tcc.transactions
WHERE (tcc.transactions.created_at, tcc.transactions.gid) < ($1::TIMESTAMP WITH TIME ZONE, $2::TEXT) ORDER BY tcc.transactions.created_at DESC, tcc.transactions.gid DESC
 LIMIT $3::BIGINT;

-- transaction_list (parameters: created_after, limit)
SELECT tcc.transactions.gid, tcc.transactions.version, tcc.transactions.state, tcc.transactions.owner, tcc.transactions.interactive, tcc.transactions.initiator, CAST(tcc.transactions.labels AS TEXT) AS labels, tcc.transactions.fingerprint, tcc.transactions.branches, NULL AS anon_1, tcc.transactions.progress, tcc.transactions.cancel_reason, tcc.transactions.cancel_branch_id, tcc.transactions.cancel_detail, tcc.transactions.cancel_message, tcc.transactions.stuck, tcc.transactions.waiting_on, CAST(EXTRACT(epoch FROM tcc.transactions.next_attempt_at) AS DOUBLE PRECISION) AS anon_2, CAST(EXTRACT(epoch FROM tcc.transactions.created_at) AS DOUBLE PRECISION) AS anon_3, CAST(EXTRACT(epoch FROM tcc.transactions.expires_at) AS DOUBLE PRECISION) AS anon_4, CAST(EXTRACT(epoch FROM tcc.transactions.decided_at) AS DOUBLE PRECISION) AS anon_5, CAST(EXTRACT(epoch FROM tcc.transactions.ended_at) AS DOUBLE PRECISION) AS anon_6, tcc.transactions.adopted_from, tcc.transactions.trace, tcc.transactions.tenant
FROM tcc.transactions
WHERE tcc.transactions.created_at > $1::TIMESTAMP WITH TIME ZONE ORDER BY tcc.transactions.created_at DESC, tcc.transactions.gid DESC
 LIMIT $2::BIGINT;

-- transaction_list (parameters: created_before, limit)
SELECT tcc.transactions.gid, tcc.transactions.version, tcc.transactions.state, tcc.transactions.owner, tcc.transactions.interactive, tcc.transactions.initiator, CAST(tcc.transactions.labels AS TEXT) AS labels, tcc.transactions.fingerprint, tcc.transactions.branches, NULL AS anon_1, tcc.transactions.progress, tcc.transactions.cancel_reason, tcc.transactions.cancel_branch_id, tcc.transactions.cancel_detail, tcc.transactions.cancel_message, tcc.transactions.stuck, tcc.transactions.waiting_on, CAST(EXTRACT(epoch FROM tcc.transactions.next_attempt_at) AS DOUBLE PRECISION) AS anon_2, CAST(EXTRACT(epoch FROM tcc.transactions.created_at) AS DOUBLE PRECISION) AS anon_3, CAST(EXTRACT(epoch FROM tcc.transactions.expires_at) AS DOUBLE PRECISION) AS anon_4, CAST(EXTRACT(epoch FROM tcc.transactions.decided_at) AS DOUBLE PRECISION) AS anon_5, CAST(EXTRACT(epoch FROM tcc.transactions.ended_at) AS DOUBLE PRECISION) AS anon_6, tcc.transactions.adopted_from, tcc.transactions.trace, tcc.transactions.tenant
FROM tcc.transactions
WHERE tcc.transactions.created_at < $1::TIMESTAMP WITH TIME ZONE ORDER BY tcc.transactions.created_at DESC, tcc.transactions.gid DESC
 LIMIT $2::BIGINT;

-- transaction_list (parameters: limit)
SELECT tcc.transactions.gid, tcc.transactions.version, tcc.transactions.state, tcc.transactions.owner, tcc.transactions.interactive, tcc.transactions.initiator, CAST(tcc.transactions.labels AS TEXT) AS labels, tcc.transactions.fingerprint, tcc.transactions.branches, NULL AS anon_1, tcc.transactions.progress, tcc.transactions.cancel_reason, tcc.transactions.cancel_branch_id, tcc.transactions.cancel_detail, tcc.transactions.cancel_message, tcc.transactions.stuck, tcc.transactions.waiting_on, CAST(EXTRACT(epoch FROM tcc.transactions.next_attempt_at) AS DOUBLE PRECISION) AS anon_2, CAST(EXTRACT(epoch FROM tcc.transactions.created_at) AS DOUBLE PRECISION) AS anon_3, CAST(EXTRACT(epoch FROM tcc.transactions.expires_at) AS DOUBLE PRECISION) AS anon_4, CAST(EXTRACT(epoch FROM tcc.transactions.decided_at) AS DOUBLE PRECISION) AS anon_5, CAST(EXTRACT(epoch FROM tcc.transactions.ended_at) AS DOUBLE PRECISION) AS anon_6, tcc.transactions.adopted_from, tcc.transactions.trace, tcc.transactions.tenant
FROM tcc.transactions
WHERE tcc.transactions.ended_at IS NOT NULL ORDER BY tcc.transactions.created_at DESC, tcc.transactions.gid DESC
 LIMIT $1::BIGINT;

-- transaction_list (parameters: gids, limit)
SELECT tcc.transactions.gid, tcc.transactions.version, tcc.transactions.state, tcc.transactions.owner, tcc.transactions.interactive, tcc.transactions.initiator, CAST(tcc.transactions.labels AS TEXT) AS labels, tcc.transactions.fingerprint, tcc.transactions.branches, NULL AS anon_1, tcc.transactions.progress, tcc.transactions.cancel_reason, tcc.transactions.cancel_branch_id, tcc.transactions.cancel_detail, tcc.transactions.cancel_message, tcc.transactions.stuck, tcc.transactions.waiting_on, CAST(EXTRACT(epoch FROM tcc.transactions.next_attempt_at) AS DOUBLE PRECISION) AS anon_2, CAST(EXTRACT(epoch FROM tcc.transactions.created_at) AS DOUBLE PRECISION) AS anon_3, CAST(EXTRACT(epoch FROM tcc.transactions.expires_at) AS DOUBLE PRECISION) AS anon_4, CAST(EXTRACT(epoch FROM tcc.transactions.decided_at) AS DOUBLE PRECISION) AS anon_5, CAST(EXTRACT(epoch FROM tcc.transactions.ended_at) AS DOUBLE PRECISION) AS anon_6, tcc.transactions.adopted_from, tcc.transactions.trace, tcc.transactions.tenant
FROM tcc.transactions
WHERE tcc.transactions.gid = ANY ($1::TEXT[]) ORDER BY tcc.transactions.created_at DESC, tcc.transactions.gid DESC
 LIMIT $2::BIGINT;

-- transaction_list (parameters: held, limit)
SELECT tcc.transactions.gid, tcc.transactions.version, tcc.transactions.state, tcc.transactions.owner, tcc.transactions.interactive, tcc.transactions.initiator, CAST(tcc.transactions.labels AS TEXT) AS labels, tcc.transactions.fingerprint, tcc.transactions.branches, NULL AS anon_1, tcc.transactions.progress, tcc.transactions.cancel_reason, tcc.transactions.cancel_branch_id, tcc.transactions.cancel_detail, tcc.transactions.cancel_message, tcc.transactions.stuck, tcc.transactions.waiting_on, CAST(EXTRACT(epoch FROM tcc.transactions.next_attempt_at) AS DOUBLE PRECISION) AS anon_2, CAST(EXTRACT(epoch FROM tcc.transactions.created_at) AS DOUBLE PRECISION) AS anon_3, CAST(EXTRACT(epoch FROM tcc.transactions.expires_at) AS DOUBLE PRECISION) AS anon_4, CAST(EXTRACT(epoch FROM tcc.transactions.decided_at) AS DOUBLE PRECISION) AS anon_5, CAST(EXTRACT(epoch FROM tcc.transactions.ended_at) AS DOUBLE PRECISION) AS anon_6, tcc.transactions.adopted_from, tcc.transactions.trace, tcc.transactions.tenant
FROM tcc.transactions
WHERE (tcc.transactions.next_attempt_at IS NOT NULL AND tcc.transactions.next_attempt_at > now() + INTERVAL '1000 years') = CAST($1 AS BOOLEAN) ORDER BY tcc.transactions.created_at DESC, tcc.transactions.gid DESC
 LIMIT $2::BIGINT;

-- transaction_list (parameters: heuristic, limit)
SELECT tcc.transactions.gid, tcc.transactions.version, tcc.transactions.state, tcc.transactions.owner, tcc.transactions.interactive, tcc.transactions.initiator, CAST(tcc.transactions.labels AS TEXT) AS labels, tcc.transactions.fingerprint, tcc.transactions.branches, NULL AS anon_1, tcc.transactions.progress, tcc.transactions.cancel_reason, tcc.transactions.cancel_branch_id, tcc.transactions.cancel_detail, tcc.transactions.cancel_message, tcc.transactions.stuck, tcc.transactions.waiting_on, CAST(EXTRACT(epoch FROM tcc.transactions.next_attempt_at) AS DOUBLE PRECISION) AS anon_2, CAST(EXTRACT(epoch FROM tcc.transactions.created_at) AS DOUBLE PRECISION) AS anon_3, CAST(EXTRACT(epoch FROM tcc.transactions.expires_at) AS DOUBLE PRECISION) AS anon_4, CAST(EXTRACT(epoch FROM tcc.transactions.decided_at) AS DOUBLE PRECISION) AS anon_5, CAST(EXTRACT(epoch FROM tcc.transactions.ended_at) AS DOUBLE PRECISION) AS anon_6, tcc.transactions.adopted_from, tcc.transactions.trace, tcc.transactions.tenant
FROM tcc.transactions
WHERE tcc.transactions.heuristic = CAST($1 AS BOOLEAN) ORDER BY tcc.transactions.created_at DESC, tcc.transactions.gid DESC
 LIMIT $2::BIGINT;

-- transaction_list (parameters: initiator, limit)
SELECT tcc.transactions.gid, tcc.transactions.version, tcc.transactions.state, tcc.transactions.owner, tcc.transactions.interactive, tcc.transactions.initiator, CAST(tcc.transactions.labels AS TEXT) AS labels, tcc.transactions.fingerprint, tcc.transactions.branches, NULL AS anon_1, tcc.transactions.progress, tcc.transactions.cancel_reason, tcc.transactions.cancel_branch_id, tcc.transactions.cancel_detail, tcc.transactions.cancel_message, tcc.transactions.stuck, tcc.transactions.waiting_on, CAST(EXTRACT(epoch FROM tcc.transactions.next_attempt_at) AS DOUBLE PRECISION) AS anon_2, CAST(EXTRACT(epoch FROM tcc.transactions.created_at) AS DOUBLE PRECISION) AS anon_3, CAST(EXTRACT(epoch FROM tcc.transactions.expires_at) AS DOUBLE PRECISION) AS anon_4, CAST(EXTRACT(epoch FROM tcc.transactions.decided_at) AS DOUBLE PRECISION) AS anon_5, CAST(EXTRACT(epoch FROM tcc.transactions.ended_at) AS DOUBLE PRECISION) AS anon_6, tcc.transactions.adopted_from, tcc.transactions.trace, tcc.transactions.tenant
FROM tcc.transactions
WHERE tcc.transactions.initiator = $1::TEXT ORDER BY tcc.transactions.created_at DESC, tcc.transactions.gid DESC
 LIMIT $2::BIGINT;

-- transaction_list (parameters: labels, limit)
SELECT tcc.transactions.gid, tcc.transactions.version, tcc.transactions.state, tcc.transactions.owner, tcc.transactions.interactive, tcc.transactions.initiator, CAST(tcc.transactions.labels AS TEXT) AS labels, tcc.transactions.fingerprint, tcc.transactions.branches, NULL AS anon_1, tcc.transactions.progress, tcc.transactions.cancel_reason, tcc.transactions.cancel_branch_id, tcc.transactions.cancel_detail, tcc.transactions.cancel_message, tcc.transactions.stuck, tcc.transactions.waiting_on, CAST(EXTRACT(epoch FROM tcc.transactions.next_attempt_at) AS DOUBLE PRECISION) AS anon_2, CAST(EXTRACT(epoch FROM tcc.transactions.created_at) AS DOUBLE PRECISION) AS anon_3, CAST(EXTRACT(epoch FROM tcc.transactions.expires_at) AS DOUBLE PRECISION) AS anon_4, CAST(EXTRACT(epoch FROM tcc.transactions.decided_at) AS DOUBLE PRECISION) AS anon_5, CAST(EXTRACT(epoch FROM tcc.transactions.ended_at) AS DOUBLE PRECISION) AS anon_6, tcc.transactions.adopted_from, tcc.transactions.trace, tcc.transactions.tenant
FROM tcc.transactions
WHERE tcc.transactions.labels @> CAST($1::TEXT AS JSONB) ORDER BY tcc.transactions.created_at DESC, tcc.transactions.gid DESC
 LIMIT $2::BIGINT;

-- transaction_list (parameters: participants, limit)
SELECT tcc.transactions.gid, tcc.transactions.version, tcc.transactions.state, tcc.transactions.owner, tcc.transactions.interactive, tcc.transactions.initiator, CAST(tcc.transactions.labels AS TEXT) AS labels, tcc.transactions.fingerprint, tcc.transactions.branches, NULL AS anon_1, tcc.transactions.progress, tcc.transactions.cancel_reason, tcc.transactions.cancel_branch_id, tcc.transactions.cancel_detail, tcc.transactions.cancel_message, tcc.transactions.stuck, tcc.transactions.waiting_on, CAST(EXTRACT(epoch FROM tcc.transactions.next_attempt_at) AS DOUBLE PRECISION) AS anon_2, CAST(EXTRACT(epoch FROM tcc.transactions.created_at) AS DOUBLE PRECISION) AS anon_3, CAST(EXTRACT(epoch FROM tcc.transactions.expires_at) AS DOUBLE PRECISION) AS anon_4, CAST(EXTRACT(epoch FROM tcc.transactions.decided_at) AS DOUBLE PRECISION) AS anon_5, CAST(EXTRACT(epoch FROM tcc.transactions.ended_at) AS DOUBLE PRECISION) AS anon_6, tcc.transactions.adopted_from, tcc.transactions.trace, tcc.transactions.tenant
FROM tcc.transactions
WHERE tcc.transactions.participants @> $1::TEXT[] ORDER BY tcc.transactions.created_at DESC, tcc.transactions.gid DESC
 LIMIT $2::BIGINT;

-- transaction_list (parameters: states, limit)
SELECT tcc.transactions.gid, tcc.transactions.version, tcc.transactions.state, tcc.transactions.owner, tcc.transactions.interactive, tcc.transactions.initiator, CAST(tcc.transactions.labels AS TEXT) AS labels, tcc.transactions.fingerprint, tcc.transactions.branches, NULL AS anon_1, tcc.transactions.progress, tcc.transactions.cancel_reason, tcc.transactions.cancel_branch_id, tcc.transactions.cancel_detail, tcc.transactions.cancel_message, tcc.transactions.stuck, tcc.transactions.waiting_on, CAST(EXTRACT(epoch FROM tcc.transactions.next_attempt_at) AS DOUBLE PRECISION) AS anon_2, CAST(EXTRACT(epoch FROM tcc.transactions.created_at) AS DOUBLE PRECISION) AS anon_3, CAST(EXTRACT(epoch FROM tcc.transactions.expires_at) AS DOUBLE PRECISION) AS anon_4, CAST(EXTRACT(epoch FROM tcc.transactions.decided_at) AS DOUBLE PRECISION) AS anon_5, CAST(EXTRACT(epoch FROM tcc.transactions.ended_at) AS DOUBLE PRECISION) AS anon_6, tcc.transactions.adopted_from, tcc.transactions.trace, tcc.transactions.tenant
FROM tcc.transactions
WHERE tcc.transactions.state = ANY ($1::SMALLINT[]) ORDER BY tcc.transactions.created_at DESC, tcc.transactions.gid DESC
 LIMIT $2::BIGINT;

-- transaction_list (parameters: stuck, limit)
SELECT tcc.transactions.gid, tcc.transactions.version, tcc.transactions.state, tcc.transactions.owner, tcc.transactions.interactive, tcc.transactions.initiator, CAST(tcc.transactions.labels AS TEXT) AS labels, tcc.transactions.fingerprint, tcc.transactions.branches, NULL AS anon_1, tcc.transactions.progress, tcc.transactions.cancel_reason, tcc.transactions.cancel_branch_id, tcc.transactions.cancel_detail, tcc.transactions.cancel_message, tcc.transactions.stuck, tcc.transactions.waiting_on, CAST(EXTRACT(epoch FROM tcc.transactions.next_attempt_at) AS DOUBLE PRECISION) AS anon_2, CAST(EXTRACT(epoch FROM tcc.transactions.created_at) AS DOUBLE PRECISION) AS anon_3, CAST(EXTRACT(epoch FROM tcc.transactions.expires_at) AS DOUBLE PRECISION) AS anon_4, CAST(EXTRACT(epoch FROM tcc.transactions.decided_at) AS DOUBLE PRECISION) AS anon_5, CAST(EXTRACT(epoch FROM tcc.transactions.ended_at) AS DOUBLE PRECISION) AS anon_6, tcc.transactions.adopted_from, tcc.transactions.trace, tcc.transactions.tenant
FROM tcc.transactions
WHERE tcc.transactions.stuck = CAST($1 AS BOOLEAN) ORDER BY tcc.transactions.created_at DESC, tcc.transactions.gid DESC
 LIMIT $2::BIGINT;

-- transaction_list (parameters: tenants, limit)
SELECT tcc.transactions.gid, tcc.transactions.version, tcc.transactions.state, tcc.transactions.owner, tcc.transactions.interactive, tcc.transactions.initiator, CAST(tcc.transactions.labels AS TEXT) AS labels, tcc.transactions.fingerprint, tcc.transactions.branches, NULL AS anon_1, tcc.transactions.progress, tcc.transactions.cancel_reason, tcc.transactions.cancel_branch_id, tcc.transactions.cancel_detail, tcc.transactions.cancel_message, tcc.transactions.stuck, tcc.transactions.waiting_on, CAST(EXTRACT(epoch FROM tcc.transactions.next_attempt_at) AS DOUBLE PRECISION) AS anon_2, CAST(EXTRACT(epoch FROM tcc.transactions.created_at) AS DOUBLE PRECISION) AS anon_3, CAST(EXTRACT(epoch FROM tcc.transactions.expires_at) AS DOUBLE PRECISION) AS anon_4, CAST(EXTRACT(epoch FROM tcc.transactions.decided_at) AS DOUBLE PRECISION) AS anon_5, CAST(EXTRACT(epoch FROM tcc.transactions.ended_at) AS DOUBLE PRECISION) AS anon_6, tcc.transactions.adopted_from, tcc.transactions.trace, tcc.transactions.tenant
FROM tcc.transactions
WHERE tcc.transactions.tenant = ANY ($1::TEXT[]) ORDER BY tcc.transactions.created_at DESC, tcc.transactions.gid DESC
 LIMIT $2::BIGINT;

-- transaction_list (parameters: limit)
SELECT tcc.transactions.gid, tcc.transactions.version, tcc.transactions.state, tcc.transactions.owner, tcc.transactions.interactive, tcc.transactions.initiator, CAST(tcc.transactions.labels AS TEXT) AS labels, tcc.transactions.fingerprint, tcc.transactions.branches, NULL AS anon_1, tcc.transactions.progress, tcc.transactions.cancel_reason, tcc.transactions.cancel_branch_id, tcc.transactions.cancel_detail, tcc.transactions.cancel_message, tcc.transactions.stuck, tcc.transactions.waiting_on, CAST(EXTRACT(epoch FROM tcc.transactions.next_attempt_at) AS DOUBLE PRECISION) AS anon_2, CAST(EXTRACT(epoch FROM tcc.transactions.created_at) AS DOUBLE PRECISION) AS anon_3, CAST(EXTRACT(epoch FROM tcc.transactions.expires_at) AS DOUBLE PRECISION) AS anon_4, CAST(EXTRACT(epoch FROM tcc.transactions.decided_at) AS DOUBLE PRECISION) AS anon_5, CAST(EXTRACT(epoch FROM tcc.transactions.ended_at) AS DOUBLE PRECISION) AS anon_6, tcc.transactions.adopted_from, tcc.transactions.trace, tcc.transactions.tenant
FROM tcc.transactions
WHERE tcc.transactions.next_attempt_at IS NOT NULL OR tcc.transactions.next_attempt_at IS NULL AND tcc.transactions.ended_at IS NULL ORDER BY tcc.transactions.created_at + INTERVAL '0 seconds' DESC, tcc.transactions.gid DESC
 LIMIT $1::BIGINT;

-- transaction_list (parameters: states, participants, labels, initiator, tenants, stuck, held, heuristic, gids, created_after, created_before, after_created_at, after_gid, limit)
SELECT tcc.transactions.gid, tcc.transactions.version, tcc.transactions.state, tcc.transactions.owner, tcc.transactions.interactive, tcc.transactions.initiator, CAST(tcc.transactions.labels AS TEXT) AS labels, tcc.transactions.fingerprint, tcc.transactions.branches, NULL AS anon_1, tcc.transactions.progress, tcc.transactions.cancel_reason, tcc.transactions.cancel_branch_id, tcc.transactions.cancel_detail, tcc.transactions.cancel_message, tcc.transactions.stuck, tcc.transactions.waiting_on, CAST(EXTRACT(epoch FROM tcc.transactions.next_attempt_at) AS DOUBLE PRECISION) AS anon_2, CAST(EXTRACT(epoch FROM tcc.transactions.created_at) AS DOUBLE PRECISION) AS anon_3, CAST(EXTRACT(epoch FROM tcc.transactions.expires_at) AS DOUBLE PRECISION) AS anon_4, CAST(EXTRACT(epoch FROM tcc.transactions.decided_at) AS DOUBLE PRECISION) AS anon_5, CAST(EXTRACT(epoch FROM tcc.transactions.ended_at) AS DOUBLE PRECISION) AS anon_6, tcc.transactions.adopted_from, tcc.transactions.trace, tcc.transactions.tenant
FROM tcc.transactions
WHERE tcc.transactions.state = ANY ($1::SMALLINT[]) AND tcc.transactions.participants @> $2::TEXT[] AND tcc.transactions.labels @> CAST($3::TEXT AS JSONB) AND tcc.transactions.initiator = $4::TEXT AND tcc.transactions.tenant = ANY ($5::TEXT[]) AND tcc.transactions.stuck = CAST($6 AS BOOLEAN) AND (tcc.transactions.next_attempt_at IS NOT NULL AND tcc.transactions.next_attempt_at > now() + INTERVAL '1000 years') = CAST($7 AS BOOLEAN) AND tcc.transactions.heuristic = CAST($8 AS BOOLEAN) AND tcc.transactions.gid = ANY ($9::TEXT[]) AND (tcc.transactions.next_attempt_at IS NOT NULL OR tcc.transactions.next_attempt_at IS NULL AND tcc.transactions.ended_at IS NULL) AND tcc.transactions.ended_at IS NOT NULL AND tcc.transactions.created_at + INTERVAL '0 seconds' > $10::TIMESTAMP WITH TIME ZONE AND tcc.transactions.created_at + INTERVAL '0 seconds' < $11::TIMESTAMP WITH TIME ZONE AND (tcc.transactions.created_at + INTERVAL '0 seconds', tcc.transactions.gid) < ($12::TIMESTAMP WITH TIME ZONE, $13::TEXT) ORDER BY tcc.transactions.created_at + INTERVAL '0 seconds' DESC, tcc.transactions.gid DESC
 LIMIT $14::BIGINT;

-- # The transaction log: schema

-- migration
SELECT to_regnamespace(%(name)s) IS NOT NULL;

-- migration
SELECT to_regnamespace(%(name)s) IS NOT NULL;

-- migration
CREATE SCHEMA IF NOT EXISTS tcc;

-- migration
CREATE TABLE IF NOT EXISTS migration_lock (id SMALLINT PRIMARY KEY);

-- migration
INSERT INTO migration_lock (id) VALUES (1) ON CONFLICT (id) DO NOTHING;

-- migration
SELECT id FROM migration_lock WHERE id = 1 FOR UPDATE;

-- migration
SELECT to_regnamespace(%(name)s) IS NOT NULL;

-- migration
CREATE TABLE transactions (
        gid TEXT COLLATE "C" NOT NULL,
        version BIGINT NOT NULL,
        state SMALLINT NOT NULL,
        owner TEXT COLLATE "C" NOT NULL,
        claim TEXT,
        interactive BOOLEAN NOT NULL,
        initiator TEXT NOT NULL,
        labels JSONB NOT NULL,
        fingerprint BYTEA NOT NULL,
        branches BYTEA NOT NULL,
        payloads BYTEA NOT NULL,
        progress BYTEA,
        participants TEXT[] NOT NULL,
        cancel_reason SMALLINT DEFAULT '0' NOT NULL,
        cancel_branch_id TEXT DEFAULT '' NOT NULL,
        cancel_detail TEXT DEFAULT '' NOT NULL,
        stuck BOOLEAN DEFAULT 'false' NOT NULL,
        waiting_on TEXT DEFAULT '' NOT NULL,
        next_attempt_at TIMESTAMP WITH TIME ZONE,
        created_at TIMESTAMP WITH TIME ZONE NOT NULL,
        expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
        decided_at TIMESTAMP WITH TIME ZONE,
        ended_at TIMESTAMP WITH TIME ZONE,
        PRIMARY KEY (gid)
)
 WITH (fillfactor = 50);

-- migration
CREATE INDEX transactions_owned ON transactions (owner) WHERE next_attempt_at IS NULL AND ended_at IS NULL;

-- migration
CREATE INDEX transactions_parked ON transactions (waiting_on, next_attempt_at) WHERE next_attempt_at IS NOT NULL;

-- migration
CREATE INDEX transactions_created ON transactions (created_at);

-- migration
CREATE TABLE coordinators (
        id TEXT COLLATE "C" NOT NULL,
        name TEXT NOT NULL,
        started_at TIMESTAMP WITH TIME ZONE NOT NULL,
        lease_until TIMESTAMP WITH TIME ZONE NOT NULL,
        PRIMARY KEY (id)
);

-- migration
ALTER TABLE transactions ADD COLUMN heuristic BOOLEAN DEFAULT 'false' NOT NULL;

-- migration
ALTER TABLE transactions ADD COLUMN adopted_at TIMESTAMP WITH TIME ZONE;

-- migration
ALTER TABLE transactions ADD COLUMN adopted_from TEXT COLLATE "C";

-- migration
ALTER TABLE coordinators ADD COLUMN drain_requested_at TIMESTAMP WITH TIME ZONE;

-- migration
ALTER TABLE coordinators ADD COLUMN report BYTEA;

-- migration
ALTER TABLE coordinators ADD COLUMN reported_at TIMESTAMP WITH TIME ZONE;

-- migration
CREATE TABLE participants (
        name TEXT COLLATE "C" NOT NULL,
        version BIGINT NOT NULL,
        paused BOOLEAN NOT NULL,
        breaker_resets BIGINT NOT NULL,
        operator TEXT NOT NULL,
        reason TEXT NOT NULL,
        changed_at TIMESTAMP WITH TIME ZONE NOT NULL,
        PRIMARY KEY (name)
);

-- migration
CREATE TABLE audit (
        sequence BIGINT NOT NULL,
        at_us BIGINT NOT NULL,
        operator TEXT NOT NULL,
        action TEXT NOT NULL,
        target TEXT COLLATE "C" NOT NULL,
        reason TEXT NOT NULL,
        detail TEXT NOT NULL,
        previous_hash BYTEA NOT NULL,
        hash BYTEA NOT NULL,
        PRIMARY KEY (sequence)
);

-- migration
CREATE INDEX audit_target ON audit (target, sequence);

-- migration
CREATE TABLE audit_head (
        id SMALLINT NOT NULL,
        sequence BIGINT NOT NULL,
        hash BYTEA NOT NULL,
        PRIMARY KEY (id)
);

-- migration
INSERT INTO audit_head (id, sequence, hash) VALUES (1, 0, decode(repeat('00', 32), 'hex'));

-- migration
ALTER TABLE transactions ADD COLUMN trace TEXT;

-- migration
CREATE INDEX transactions_parked_created ON transactions (created_at) WHERE (next_attempt_at IS NULL) IS false;

-- migration
CREATE INDEX transactions_stuck ON transactions (created_at) WHERE stuck AND ended_at IS NULL;

-- migration
ALTER TABLE transactions ADD COLUMN cancel_message TEXT DEFAULT '' NOT NULL;

-- migration
ALTER TABLE transactions ADD COLUMN tenant TEXT DEFAULT '' NOT NULL;

-- migration
ALTER TABLE audit ADD COLUMN on_behalf_of TEXT DEFAULT '' NOT NULL;

-- migration
ALTER TABLE audit ADD COLUMN method TEXT DEFAULT '' NOT NULL;

-- migration
ALTER TABLE audit ADD COLUMN peer TEXT DEFAULT '' NOT NULL;

-- migration
ALTER TABLE audit ADD COLUMN credential TEXT DEFAULT '' NOT NULL;

-- migration
CREATE TABLE audit_heads (
        sequence BIGINT NOT NULL,
        hash BYTEA NOT NULL,
        at_us BIGINT NOT NULL,
        key_id TEXT NOT NULL,
        signature BYTEA NOT NULL
);

-- migration
CREATE INDEX audit_heads_newest ON audit_heads (key_id, sequence, at_us);

-- migration
INSERT INTO audit_heads (sequence, hash, at_us, key_id, signature) SELECT sequence, hash, 0, '', decode('', 'hex') FROM audit_head;

-- migration
DROP TABLE audit_head;

-- migration
CREATE TABLE coordinator_secrets (
        name TEXT COLLATE "C" NOT NULL,
        value BYTEA NOT NULL,
        PRIMARY KEY (name)
);

-- migration
INSERT INTO coordinator_secrets (name, value) VALUES (%(name)s::VARCHAR COLLATE "C", %(value)s);

-- migration
CREATE INDEX transactions_ended_late ON transactions (ended_at) WHERE ended_at - created_at > INTERVAL '10 minutes';

-- migration
CREATE TABLE erasures (
        name TEXT COLLATE "C" NOT NULL,
        moment TIMESTAMP WITH TIME ZONE NOT NULL,
        gid TEXT COLLATE "C" NOT NULL,
        PRIMARY KEY (name)
);

-- migration
ALTER TABLE audit ADD COLUMN role TEXT DEFAULT '' NOT NULL;

-- migration
CREATE TABLE cells (
        number SMALLINT NOT NULL,
        count SMALLINT NOT NULL,
        log_id TEXT COLLATE "C" NOT NULL,
        PRIMARY KEY (number)
);

-- migration
INSERT INTO cells (number, count, log_id) VALUES (%(number)s::SMALLINT, %(count)s::SMALLINT, %(log_id)s::VARCHAR COLLATE "C");

-- migration
ALTER TABLE cells ADD COLUMN generation BIGINT DEFAULT '1' NOT NULL;

-- migration
ALTER TABLE cells ADD COLUMN moved_at TIMESTAMP WITH TIME ZONE;

-- migration
ALTER TABLE cells ADD COLUMN moved_to TEXT;

-- migration
UPDATE cells SET number = %(number)s, count = %(count)s, log_id = coalesce(%(log_id)s, log_id);

-- migration
SELECT number, count, log_id,
       CAST(coalesce(to_jsonb(cells) ->> 'generation', '1') AS BIGINT),
       coalesce(to_jsonb(cells) ->> 'moved_at', ''),
       coalesce(to_jsonb(cells) ->> 'moved_to', '')
FROM tcc.cells;

-- migration
SELECT number, count, log_id,
       CAST(coalesce(to_jsonb(cells) ->> 'generation', '1') AS BIGINT),
       coalesce(to_jsonb(cells) ->> 'moved_at', ''),
       coalesce(to_jsonb(cells) ->> 'moved_to', '')
FROM tcc.cells;

-- # The transaction log: maintenance

-- migration: stand_in
CREATE VIEW public.transactions AS SELECT gid, version, state, owner, claim, interactive, initiator, labels, fingerprint, branches, payloads, progress, participants, cancel_reason, cancel_branch_id, cancel_detail, cancel_message, stuck, waiting_on, next_attempt_at, created_at, expires_at, decided_at, ended_at, heuristic, adopted_at, adopted_from, trace FROM tcc.transactions;

-- migration: stand_in
CREATE VIEW public.coordinators AS SELECT id, name, started_at, lease_until, drain_requested_at, report, reported_at FROM tcc.coordinators;

-- migration: stand_in
CREATE VIEW public.participants AS SELECT name, version, paused, breaker_resets, operator, reason, changed_at FROM tcc.participants;

-- migration: stand_in
UPDATE public.alembic_version SET version_num = '0005';

-- migration: has_schema
SELECT to_regnamespace(:name) IS NOT NULL;

-- migration: lock_statements
CREATE TABLE IF NOT EXISTS migration_lock (id SMALLINT PRIMARY KEY);

-- migration: lock_statements
INSERT INTO migration_lock (id) VALUES (1) ON CONFLICT (id) DO NOTHING;

-- migration: take_lock
SELECT id FROM migration_lock WHERE id = 1 FOR UPDATE;

-- migration: in_public
SELECT to_regclass('public.migration_lock') IS NOT NULL
    AND to_regclass('public.alembic_version') IS NOT NULL
    AND to_regclass('public.coordinators') IS NOT NULL
    AND to_regclass('public.transactions') IS NOT NULL;

-- migration: oldest
SELECT oldest FROM alembic_version;

-- migration: version_in_public
SELECT version_num FROM public.alembic_version;

-- migration: move_from_public
CREATE TABLE tcc.alembic_version (LIKE public.alembic_version INCLUDING ALL);

-- migration: move_from_public
INSERT INTO tcc.alembic_version SELECT version_num FROM public.alembic_version;

-- migration: move_from_public
ALTER TABLE public.transactions SET SCHEMA tcc;

-- migration: move_from_public
ALTER TABLE public.coordinators SET SCHEMA tcc;

-- migration: move_from_public
ALTER TABLE IF EXISTS public.participants SET SCHEMA tcc;

-- migration: move_from_public
ALTER TABLE IF EXISTS public.audit SET SCHEMA tcc;

-- migration: move_from_public
ALTER TABLE IF EXISTS public.audit_head SET SCHEMA tcc;

-- migration: move_from_public
ALTER TABLE IF EXISTS public.audit_heads SET SCHEMA tcc;

-- migration: move_from_public
ALTER TABLE IF EXISTS public.coordinator_secrets SET SCHEMA tcc;

-- migration: move_from_public
ALTER TABLE IF EXISTS public.erasures SET SCHEMA tcc;

-- migration: set_place
UPDATE cells SET number = :number, count = :count, log_id = coalesce(:log_id, log_id);

-- migration: record
INSERT INTO cells (number, count, log_id, generation) VALUES (:number, :count, :log_id, :generation)
ON CONFLICT (number) DO UPDATE SET generation = greatest(cells.generation, excluded.generation);

-- migration: has_table
SELECT to_regclass(:name) IS NOT NULL;

-- migration: may_rewrite
SELECT pg_has_role(:role, relowner, 'MEMBER') FROM pg_class WHERE oid = to_regclass(:table);

-- diagnosis: standbys
SELECT count(*) FILTER (WHERE coalesce(sync_state, 'sync') IN ('sync', 'quorum')),
       count(*),
       CAST(max(pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn)) AS BIGINT)
FROM pg_stat_replication WHERE NOT pg_is_in_recovery();

-- diagnosis: clock
SELECT CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION);

-- diagnosis: read_settings
SELECT name, reset_val FROM pg_settings WHERE name = ANY(:names);

-- diagnosis: about
SELECT CAST(max(reltuples) AS BIGINT) FROM pg_class WHERE oid = to_regclass(:name);

-- diagnosis: read_only
SELECT current_setting('transaction_read_only');

-- # The barrier on postgresql: schema

-- schema
CREATE TABLE tcc_barrier (
        gid VARCHAR(128) COLLATE "C" NOT NULL,
        branch_id VARCHAR(128) COLLATE "C" NOT NULL,
        action VARCHAR(128) NOT NULL,
        state SMALLINT NOT NULL,
        expires_at_ms BIGINT NOT NULL,
        updated_at_ms BIGINT NOT NULL,
        try_result BYTEA,
        try_result_content_type VARCHAR(128),
        digest BYTEA,
        kind SMALLINT,
        PRIMARY KEY (gid, branch_id)
)
 WITH (fillfactor = 40);

-- schema
CREATE INDEX tcc_barrier_expires_at_ms ON tcc_barrier (expires_at_ms);

-- schema
CREATE TABLE tcc_barrier_version (
        version SERIAL NOT NULL,
        PRIMARY KEY (version)
);

-- # The barrier on postgresql

-- lock
SELECT found.* FROM unnest(CAST(CAST(:gids AS text) AS text[]), CAST(CAST(:branch_ids AS text) AS text[])) AS key(gid, branch_id), LATERAL (
    SELECT gid, branch_id, action, state, try_result, try_result_content_type, digest, kind
    FROM tcc_barrier WHERE gid = key.gid AND branch_id = key.branch_id FOR UPDATE
) AS found;

-- move
INSERT INTO tcc_barrier (gid, branch_id, action, state, expires_at_ms, updated_at_ms)
SELECT gid, branch_id, '', :state, 0, (SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)) FROM unnest(CAST(CAST(:gids AS text) AS text[]), CAST(CAST(:branch_ids AS text) AS text[])) AS key(gid, branch_id)
ON CONFLICT (gid, branch_id) DO UPDATE
SET state = excluded.state, updated_at_ms = excluded.updated_at_ms;

-- keep
INSERT INTO tcc_barrier
    (gid, branch_id, action, state, expires_at_ms, updated_at_ms, try_result, try_result_content_type)
SELECT gid, branch_id, '', 1, 0, 0, data, content_type
FROM unnest(CAST(CAST(:gids AS text) AS text[]), CAST(CAST(:branch_ids AS text) AS text[]), CAST(CAST(:data AS text) AS bytea[]), CAST(CAST(:content_types AS text) AS text[]))
    AS result(gid, branch_id, data, content_type)
ON CONFLICT (gid, branch_id) DO UPDATE
SET try_result = excluded.try_result, try_result_content_type = excluded.try_result_content_type;

-- drop
SELECT set_config('enable_seqscan', 'off', true);

-- drop
DELETE FROM tcc_barrier USING unnest(CAST(CAST(:gids AS text) AS text[]), CAST(CAST(:branch_ids AS text) AS text[])) AS key(gid, branch_id)
WHERE tcc_barrier.gid = key.gid AND tcc_barrier.branch_id = key.branch_id;

-- claim of Try
WITH made AS (
    INSERT INTO tcc_barrier
        (gid, branch_id, action, kind, state, expires_at_ms, updated_at_ms, digest)
    SELECT gid, branch_id, :action, :kind, :state, expires_at_ms, (SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)), digest
    FROM unnest(CAST(CAST(:gids AS text) AS text[]), CAST(CAST(:branch_ids AS text) AS text[]), CAST(CAST(:expiries AS text) AS bigint[]), CAST(CAST(:digests AS text) AS bytea[]))
        AS mark(gid, branch_id, expires_at_ms, digest)
    WHERE expires_at_ms = 0 OR expires_at_ms > (SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)) - CAST(:margin_ms AS bigint)
    ON CONFLICT (gid, branch_id) DO NOTHING
    RETURNING gid, branch_id
), counted AS (SELECT count(*) AS made FROM made)
SELECT counted.made, made.gid, made.branch_id
FROM counted LEFT JOIN made ON counted.made < CAST(:wanted AS bigint);

-- claim of Try with results
WITH made AS (
    INSERT INTO tcc_barrier
        (gid, branch_id, action, kind, state, expires_at_ms, updated_at_ms, digest, try_result, try_result_content_type)
    SELECT gid, branch_id, :action, :kind, :state, expires_at_ms, (SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)), digest, try_result, try_result_content_type
    FROM unnest(CAST(CAST(:gids AS text) AS text[]), CAST(CAST(:branch_ids AS text) AS text[]), CAST(CAST(:expiries AS text) AS bigint[]), CAST(CAST(:digests AS text) AS bytea[]), CAST(CAST(:data AS text) AS bytea[]), CAST(CAST(:content_types AS text) AS text[]))
        AS mark(gid, branch_id, expires_at_ms, digest, try_result, try_result_content_type)
    WHERE expires_at_ms = 0 OR expires_at_ms > (SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)) - CAST(:margin_ms AS bigint)
    ON CONFLICT (gid, branch_id) DO NOTHING
    RETURNING gid, branch_id
), counted AS (SELECT count(*) AS made FROM made)
SELECT counted.made, made.gid, made.branch_id
FROM counted LEFT JOIN made ON counted.made < CAST(:wanted AS bigint);

-- claim of Cancel
WITH made AS (
    INSERT INTO tcc_barrier
        (gid, branch_id, action, kind, state, expires_at_ms, updated_at_ms)
    SELECT gid, branch_id, :action, :kind, :state, expires_at_ms, (SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint))
    FROM unnest(CAST(CAST(:gids AS text) AS text[]), CAST(CAST(:branch_ids AS text) AS text[]), CAST(CAST(:expiries AS text) AS bigint[]))
        AS mark(gid, branch_id, expires_at_ms)
    WHERE expires_at_ms = 0 OR expires_at_ms > (SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)) - CAST(:margin_ms AS bigint)
    ON CONFLICT (gid, branch_id) DO NOTHING
    RETURNING gid, branch_id
), counted AS (SELECT count(*) AS made FROM made)
SELECT counted.made, made.gid, made.branch_id
FROM counted LEFT JOIN made ON counted.made < CAST(:wanted AS bigint);

-- list
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
       set_config('enable_sort', 'off', true);

-- list
SELECT expires_at_ms, gid, branch_id FROM tcc_barrier WHERE expires_at_ms >= :expiry AND (expires_at_ms > :expiry
        OR gid > :gid OR (gid = :gid AND branch_id > :branch_id)) AND expires_at_ms <= (SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)) - :min_age_ms ORDER BY expires_at_ms, gid, branch_id LIMIT 1 OFFSET :passed;

-- list
SELECT expires_at_ms, gid, branch_id, action, state, kind, (SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)) - updated_at_ms FROM tcc_barrier WHERE expires_at_ms >= :expiry AND (expires_at_ms > :expiry
        OR gid > :gid OR (gid = :gid AND branch_id > :branch_id)) AND expires_at_ms <= (SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)) - :min_age_ms AND gid <> '' AND state IN (1) AND updated_at_ms <= (SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)) - :min_age_ms AND expires_at_ms <= :last_expiry AND (expires_at_ms < :last_expiry
            OR gid < :last_gid OR (gid = :last_gid AND branch_id <= :last_branch_id)) ORDER BY expires_at_ms, gid, branch_id LIMIT :rows_max;

-- list up to an age
SELECT expires_at_ms, gid, branch_id FROM tcc_barrier WHERE expires_at_ms >= :expiry AND (expires_at_ms > :expiry
        OR gid > :gid OR (gid = :gid AND branch_id > :branch_id)) AND expires_at_ms <= (SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)) - :min_age_ms AND expires_at_ms >= (SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)) - :max_age_ms ORDER BY expires_at_ms, gid, branch_id LIMIT 1 OFFSET :passed;

-- list up to an age
SELECT expires_at_ms, gid, branch_id, action, state, kind, (SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)) - updated_at_ms FROM tcc_barrier WHERE expires_at_ms >= :expiry AND (expires_at_ms > :expiry
        OR gid > :gid OR (gid = :gid AND branch_id > :branch_id)) AND expires_at_ms <= (SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)) - :min_age_ms AND expires_at_ms >= (SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)) - :max_age_ms AND gid <> '' AND state IN (1) AND updated_at_ms <= (SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)) - :min_age_ms AND expires_at_ms <= :last_expiry AND (expires_at_ms < :last_expiry
            OR gid < :last_gid OR (gid = :last_gid AND branch_id <= :last_branch_id)) ORDER BY expires_at_ms, gid, branch_id LIMIT :rows_max;

-- find
SELECT gid, branch_id, action, state, kind, (SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)) - updated_at_ms FROM tcc_barrier WHERE (gid = :g0 AND branch_id = :b0) OR (gid = :g1 AND branch_id = :b1);

-- purge
DELETE FROM tcc_barrier WHERE ctid IN (
    SELECT ctid FROM tcc_barrier WHERE (state <> 1 OR (kind = 2 AND expires_at_ms > 0)) AND expires_at_ms < (SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)) - :margin_ms AND updated_at_ms < (SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)) - :margin_ms
    ORDER BY expires_at_ms LIMIT :rows_max FOR UPDATE SKIP LOCKED);

-- # The barrier on mysql: schema

-- schema
CREATE TABLE tcc_barrier (
        gid VARBINARY(128) NOT NULL,
        branch_id VARBINARY(128) NOT NULL,
        action VARCHAR(128) NOT NULL,
        state SMALLINT NOT NULL,
        expires_at_ms BIGINT NOT NULL,
        updated_at_ms BIGINT NOT NULL,
        try_result LONGBLOB,
        try_result_content_type VARCHAR(128),
        digest VARBINARY(32),
        kind SMALLINT,
        PRIMARY KEY (gid, branch_id)
)ENGINE=InnoDB CHARSET=utf8mb4;

-- schema
CREATE INDEX tcc_barrier_expires_at_ms ON tcc_barrier (expires_at_ms);

-- schema
CREATE TABLE tcc_barrier_version (
        version INTEGER NOT NULL AUTO_INCREMENT,
        PRIMARY KEY (version)
);

-- # The barrier on mysql

-- lock
SELECT gid, branch_id, action, state, try_result, try_result_content_type, digest, kind FROM tcc_barrier WHERE (gid = :g0 AND branch_id = :b0) OR (gid = :g1 AND branch_id = :b1) ORDER BY gid, branch_id FOR UPDATE;

-- move
UPDATE tcc_barrier SET state = :state, updated_at_ms = UNIX_TIMESTAMP() * 1000 WHERE (gid = :g0 AND branch_id = :b0) OR (gid = :g1 AND branch_id = :b1);

-- keep
UPDATE tcc_barrier SET try_result = :data, try_result_content_type = :content_type
WHERE gid = :gid AND branch_id = :branch_id;

-- drop
DELETE FROM tcc_barrier WHERE (gid = :g0 AND branch_id = :b0) OR (gid = :g1 AND branch_id = :b1);

-- claim of Try
SELECT UNIX_TIMESTAMP() * 1000;

-- claim of Try
INSERT INTO tcc_barrier (gid, branch_id, action, kind, state, expires_at_ms, updated_at_ms, digest) VALUES (:g0, :b0, :action, :kind, :claimed, :e0, UNIX_TIMESTAMP() * 1000, :d0), (:g1, :b1, :action, :kind, :claimed, :e1, UNIX_TIMESTAMP() * 1000, :d1) ON DUPLICATE KEY UPDATE tcc_barrier.state = tcc_barrier.state;

-- claim of Try
SELECT gid, branch_id FROM tcc_barrier WHERE state = :claimed AND ((gid = :g0 AND branch_id = :b0) OR (gid = :g1 AND branch_id = :b1)) FOR UPDATE;

-- list
SELECT expires_at_ms, gid, branch_id FROM tcc_barrier WHERE expires_at_ms >= :expiry AND (expires_at_ms > :expiry
        OR gid > :gid OR (gid = :gid AND branch_id > :branch_id)) AND expires_at_ms <= UNIX_TIMESTAMP() * 1000 - :min_age_ms ORDER BY expires_at_ms, gid, branch_id LIMIT 1 OFFSET :passed;

-- list
SELECT expires_at_ms, gid, branch_id, action, state, kind, UNIX_TIMESTAMP() * 1000 - updated_at_ms FROM tcc_barrier WHERE expires_at_ms >= :expiry AND (expires_at_ms > :expiry
        OR gid > :gid OR (gid = :gid AND branch_id > :branch_id)) AND expires_at_ms <= UNIX_TIMESTAMP() * 1000 - :min_age_ms AND gid <> '' AND state IN (1) AND updated_at_ms <= UNIX_TIMESTAMP() * 1000 - :min_age_ms AND expires_at_ms <= :last_expiry AND (expires_at_ms < :last_expiry
            OR gid < :last_gid OR (gid = :last_gid AND branch_id <= :last_branch_id)) ORDER BY expires_at_ms, gid, branch_id LIMIT :rows_max;

-- list up to an age
SELECT expires_at_ms, gid, branch_id FROM tcc_barrier WHERE expires_at_ms >= :expiry AND (expires_at_ms > :expiry
        OR gid > :gid OR (gid = :gid AND branch_id > :branch_id)) AND expires_at_ms <= UNIX_TIMESTAMP() * 1000 - :min_age_ms AND expires_at_ms >= UNIX_TIMESTAMP() * 1000 - :max_age_ms ORDER BY expires_at_ms, gid, branch_id LIMIT 1 OFFSET :passed;

-- list up to an age
SELECT expires_at_ms, gid, branch_id, action, state, kind, UNIX_TIMESTAMP() * 1000 - updated_at_ms FROM tcc_barrier WHERE expires_at_ms >= :expiry AND (expires_at_ms > :expiry
        OR gid > :gid OR (gid = :gid AND branch_id > :branch_id)) AND expires_at_ms <= UNIX_TIMESTAMP() * 1000 - :min_age_ms AND expires_at_ms >= UNIX_TIMESTAMP() * 1000 - :max_age_ms AND gid <> '' AND state IN (1) AND updated_at_ms <= UNIX_TIMESTAMP() * 1000 - :min_age_ms AND expires_at_ms <= :last_expiry AND (expires_at_ms < :last_expiry
            OR gid < :last_gid OR (gid = :last_gid AND branch_id <= :last_branch_id)) ORDER BY expires_at_ms, gid, branch_id LIMIT :rows_max;

-- find
SELECT gid, branch_id, action, state, kind, UNIX_TIMESTAMP() * 1000 - updated_at_ms FROM tcc_barrier WHERE (gid = :g0 AND branch_id = :b0) OR (gid = :g1 AND branch_id = :b1);

-- purge
DELETE FROM tcc_barrier WHERE (state <> 1 OR (kind = 2 AND expires_at_ms > 0)) AND expires_at_ms < UNIX_TIMESTAMP() * 1000 - :margin_ms AND updated_at_ms < UNIX_TIMESTAMP() * 1000 - :margin_ms ORDER BY expires_at_ms LIMIT :rows_max;

-- # The barrier on sqlite: schema

-- schema
CREATE TABLE tcc_barrier (
        gid VARCHAR(128) NOT NULL,
        branch_id VARCHAR(128) NOT NULL,
        action VARCHAR(128) NOT NULL,
        state SMALLINT NOT NULL,
        expires_at_ms BIGINT NOT NULL,
        updated_at_ms BIGINT NOT NULL,
        try_result BLOB,
        try_result_content_type VARCHAR(128),
        digest BLOB,
        kind SMALLINT,
        PRIMARY KEY (gid, branch_id)
);

-- schema
CREATE INDEX tcc_barrier_expires_at_ms ON tcc_barrier (expires_at_ms);

-- schema
CREATE TABLE tcc_barrier_version (
        version INTEGER NOT NULL,
        PRIMARY KEY (version)
);

-- # The barrier on sqlite

-- begin
UPDATE tcc_barrier SET state = state WHERE 0;

-- lock
SELECT gid, branch_id, action, state, try_result, try_result_content_type, digest, kind
FROM tcc_barrier WHERE (gid, branch_id) IN (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:keys));

-- move
UPDATE tcc_barrier SET state = :state, updated_at_ms = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
WHERE (gid, branch_id) IN (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:keys));

-- keep
UPDATE tcc_barrier SET try_result = :data, try_result_content_type = :content_type
WHERE gid = :gid AND branch_id = :branch_id;

-- drop
DELETE FROM tcc_barrier WHERE (gid, branch_id) IN (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:keys));

-- claim of Try
INSERT INTO tcc_barrier (gid, branch_id, action, kind, state, expires_at_ms, updated_at_ms, digest)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), :action, :kind, :state,
       json_extract(value, '$[2]'), CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER), json_extract(value, '$[3]')
FROM json_each(:marks)
WHERE json_extract(value, '$[2]') = 0 OR json_extract(value, '$[2]') > CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - :margin_ms
ON CONFLICT (gid, branch_id) DO NOTHING
RETURNING gid, branch_id;

-- list
SELECT expires_at_ms, gid, branch_id FROM tcc_barrier WHERE expires_at_ms >= :expiry AND (expires_at_ms > :expiry
        OR gid > :gid OR (gid = :gid AND branch_id > :branch_id)) AND expires_at_ms <= CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - :min_age_ms ORDER BY expires_at_ms, gid, branch_id LIMIT 1 OFFSET :passed;

-- list
SELECT expires_at_ms, gid, branch_id, action, state, kind, CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - updated_at_ms FROM tcc_barrier WHERE expires_at_ms >= :expiry AND (expires_at_ms > :expiry
        OR gid > :gid OR (gid = :gid AND branch_id > :branch_id)) AND expires_at_ms <= CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - :min_age_ms AND gid <> '' AND state IN (1) AND updated_at_ms <= CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - :min_age_ms AND expires_at_ms <= :last_expiry AND (expires_at_ms < :last_expiry
            OR gid < :last_gid OR (gid = :last_gid AND branch_id <= :last_branch_id)) ORDER BY expires_at_ms, gid, branch_id LIMIT :rows_max;

-- list up to an age
SELECT expires_at_ms, gid, branch_id FROM tcc_barrier WHERE expires_at_ms >= :expiry AND (expires_at_ms > :expiry
        OR gid > :gid OR (gid = :gid AND branch_id > :branch_id)) AND expires_at_ms <= CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - :min_age_ms AND expires_at_ms >= CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - :max_age_ms ORDER BY expires_at_ms, gid, branch_id LIMIT 1 OFFSET :passed;

-- list up to an age
SELECT expires_at_ms, gid, branch_id, action, state, kind, CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - updated_at_ms FROM tcc_barrier WHERE expires_at_ms >= :expiry AND (expires_at_ms > :expiry
        OR gid > :gid OR (gid = :gid AND branch_id > :branch_id)) AND expires_at_ms <= CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - :min_age_ms AND expires_at_ms >= CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - :max_age_ms AND gid <> '' AND state IN (1) AND updated_at_ms <= CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - :min_age_ms AND expires_at_ms <= :last_expiry AND (expires_at_ms < :last_expiry
            OR gid < :last_gid OR (gid = :last_gid AND branch_id <= :last_branch_id)) ORDER BY expires_at_ms, gid, branch_id LIMIT :rows_max;

-- find
SELECT gid, branch_id, action, state, kind, CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - updated_at_ms FROM tcc_barrier WHERE (gid = :g0 AND branch_id = :b0) OR (gid = :g1 AND branch_id = :b1);

-- purge
DELETE FROM tcc_barrier WHERE rowid IN (
    SELECT rowid FROM tcc_barrier WHERE (state <> 1 OR (kind = 2 AND expires_at_ms > 0)) AND expires_at_ms < CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - :margin_ms AND updated_at_ms < CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - :margin_ms
    ORDER BY expires_at_ms LIMIT :rows_max);
