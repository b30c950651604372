-- What every connection of ours asks for, for poolers that cannot pass it on. Once, as an owner:
--   psql DIRECT_URL -f role.sql
-- Without it nothing ends a statement that hangs, nor the transaction of a frozen process, whose
-- locks would then stop the others. `outbound doctor` tells whether it is in force.
ALTER ROLE outbound IN DATABASE outbound SET statement_timeout = '10s';
ALTER ROLE outbound IN DATABASE outbound SET lock_timeout = '5s';
ALTER ROLE outbound IN DATABASE outbound SET idle_in_transaction_session_timeout = '10s';
ALTER ROLE outbound IN DATABASE outbound SET timezone = 'UTC';
ALTER ROLE outbound IN DATABASE outbound SET jit = off;
