# What the reader of a page for operators has: the environment, a key, and a run under way. Of its
# leads one answers, one is busy and waits for its retry, and one is refused by the carrier.
. .outbound/env
PATH="$PWD/.venv/bin:$PATH"
given() { python3 -c "import json, sys; print(json.load(sys.stdin)$1)"; }

ACCOUNT=$(outbound account create "given $RANDOM $$" --caller-id +97231234567 \
  --calls-per-second 20 --json | given "['account_id']")
OUTBOUND_API_KEY=$(outbound key create --account "$ACCOUNT" --role admin --json | given "['key']")
export OUTBOUND_API_KEY

printf "lead_id,phone\na,+12025552000\nb,+12025552101\nc,+12025552207\n" > given.csv
RUN=$(outbound run create given.csv --twiml '<Response/>' --calls-per-second 20 --max-attempts 2 \
  --json | given "['run_id']")
CALL=$(outbound calls list "$RUN" --limit 1 --json | given "['items'][0]['call_id']")
until outbound run show "$RUN" --json | grep -q '"queued": 1, "in_progress": 0'; do :; done
