-- Posts one body. Counts statuses other than 200, and prints one line of JSON at the end.
-- Arguments: path of the file with the body, then names and values of headers in turns.

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  local file = assert(io.open(args[1], "rb"))
  wrk.method = "POST"
  wrk.body = file:read("*a")
  file:close()
  for i = 2, #args, 2 do
    wrk.headers[args[i]] = args[i + 1]
  end
  other_status = 0
end

function response(status)
  if status ~= 200 then
    other_status = other_status + 1
  end
end

function done(summary, latency)
  local other = 0
  for _, thread in ipairs(threads) do
    other = other + thread:get("other_status")
  end
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"responses": %d, "duration_us": %d, "other_status": %d, "socket_errors": %d, '
      .. '"timeouts": %d, "p50_us": %d, "p99_us": %d}\n',
    summary.requests, summary.duration, other, errors.connect + errors.read + errors.write,
    errors.timeout, latency:percentile(50), latency:percentile(99)))
end
