-- Makes wrk send the calls of a file in turn, and print its figures as one line of JSON at the end.
-- The file has a call a line: a path, a space, and a bearer token or nothing. See load.py, which reads the same.

local requests = {}
local last = 0

function init(args)
   for line in io.lines(args[1]) do
      local path, token = line:match("^(%S+) ?(%S*)$")
      local headers = {}
      if token ~= "" then
         headers["authorization"] = "Bearer " .. token
      end
      requests[#requests + 1] = wrk.format("GET", path, headers)
   end
end

function request()
   last = last % #requests + 1
   return requests[last]
end

function done(summary, latency, _)
   local errors = summary.errors
   print(string.format(
      '\n{"requests": %d, "seconds": %f, "p50_us": %f, "p99_us": %f, "refused": %d, "broken": %d}',
      summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
      errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
