-- Repeats decisions of the proxy, for as long as the proxy lets this worker: it stands before ext_authz, which asks about
-- everything that is not answered here. The other half is rest_bridge/proxy/remembered.py; why it is strict stands in
-- edge_leases.py there. Whatever fails here leaves the request undecided, so ext_authz decides.
--
-- Only a busy worker remembers, since some requests wait for its lease. The question is the instance and the exact
-- Authorization header; requests whose decision may depend on more are left to ext_authz. What was let pass is reported at
-- most once: a report that fails is lost, as it may have arrived.

local LEASE_PATH = "/edge"
local PROXY = "{{PROXY}}"
local DECISION = "{{DECISION}}"
local PASS = "{{PASS}}"
local DECISION_ID = "{{DECISION_ID}}"
local ORG, INSTANCE, LOGGED = "{{ORG}}", "{{INSTANCE}}", {{LOGGED}}
local RATE = {"ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"}

-- So many requests in so many milliseconds make a worker busy; with 0 it always is.
local BUSY, WINDOW = {{BUSY}}, 100
-- A lease is renewed when half of it is over. Where none was granted, one is asked for as often as this. Milliseconds.
local AGAIN = 1000
-- How long the proxy may take for an answer, and what was let pass stays unreported: each report costs the proxy and this
-- worker something, so where many callers take turns, it is of several of a caller's requests. Milliseconds.
local PATIENCE, REPORT = 1000, 2000
-- What is reported at once, and how much is remembered: names of uses, and bytes.
local REPORTED, REMEMBERED = 200, 32 * 1024 * 1024
-- A decision weighs about so much besides its question, and longer headers and ids are not remembered. Bytes.
local ENTRY, LONGEST, LONGEST_ID = 1024, 4096, 45
-- How long it takes after one request was drawn for a record until another may be: writing one costs the proxy as much as
-- many decisions. Milliseconds.
local DRAWN = 50
-- How long a credential that does not pass is left to ext_authz without a question. Milliseconds.
local REFUSED = 1000
-- Where the proxy has known less than this worker so many times, it is the worker that starts over.
local BEHIND = 20

-- A clock that cannot be set, and that goes on while the machine sleeps: Envoy's own in Lua is the wall clock.
local CLOCKS = {Linux = 7, OSX = 6}

local function monotonic()
  local found, ffi = pcall(require, "ffi")
  local id = jit ~= nil and CLOCKS[jit.os] or nil
  if not found or id == nil then
    return nil
  end
  ffi.cdef("typedef struct {long seconds; long nanoseconds;} orch8_time; int clock_gettime(int, orch8_time *);")
  local time, library = ffi.new("orch8_time"), ffi.C
  return function()
    library.clock_gettime(id, time)
    return tonumber(time.seconds) * 1000 + tonumber(time.nanoseconds) / 1e6
  end
end

local clock = monotonic()

-- Entries by instance and Authorization header. An entry is a table, or the time until which its question is left to
-- ext_authz: 0 is a question that was seen once. The older half goes when the younger is full.
local function new_half()
  return {of = {}, bytes = 0}
end

local young, old = new_half(), new_half()
local known, lease_until, behind = nil, 0, 0
local ask_at, half_lease, report_at, draw_at = 0, AGAIN, 0, 0
local window_end, in_window, busy = 0, 0, false
-- What was let pass, by whose it is, and headers that are taken away: shared by entries, and dropped with the last of them.
local removals = setmetatable({}, {__mode = "v"})
local uses = setmetatable({}, {__mode = "v"})
local buckets = setmetatable({}, {__mode = "v"})
-- Those that have something to report, in turn, and whether that is urgent: half of what may pass unasked has passed.
local queue, first, last, urgent = {}, 1, 0, false
local seed, numbers, sample = string.rep("0", 24), 0, 0

local function keep(id, authorization, entry)
  if young.bytes > REMEMBERED / 2 then
    old, young = young, new_half()
  end
  local of = young.of[id]
  if of == nil then
    of = {}
    young.of[id] = of
  end
  if of[authorization] == nil then
    young.bytes = young.bytes + #id + #authorization + ENTRY
  end
  of[authorization] = entry
end

local function recall(id, authorization)
  local of = young.of[id]
  local entry = of and of[authorization]
  if entry ~= nil then
    return entry
  end
  of = old.of[id]
  entry = of and of[authorization]
  if entry ~= nil then
    keep(id, authorization, entry)
  end
  return entry
end

local function forget_all()
  young, old = new_half(), new_half()
end

local function forget_instance(id)
  young.of[id], old.of[id] = nil, nil
end

-- There is no list of where a key is, which would cost the collector more, day by day, than looking everywhere now and then.
local function forget_keys(keys)
  for _, half in ipairs({young, old}) do
    for _, of in pairs(half.of) do
      for authorization, entry in pairs(of) do
        if type(entry) == "table" and keys[entry.key] then
          of[authorization] = nil
        end
      end
    end
  end
end

local function bucket(name)
  local found = buckets[name]
  if found == nil then
    found = {}
    buckets[name] = found
  end
  return found
end

local function use_of(whose)
  local use = uses[whose]
  if use == nil then
    local instance, org, key = string.match(whose, "^(%S+) (%S+) (%S+)")
    use = {whose = whose, count = 0, org = bucket(org), key = bucket(org .. " " .. key), names = {instance, org}}
    uses[whose] = use
  end
  return use
end

local function grant(of, left)
  of.left, of.half = left, left and left / 2
end

-- "organization's, key's, limit, remaining, reset"; a minus where there is no limit.
local function set_terms(use, terms)
  local org, key, limit, remaining, reset = string.match(terms, "^(%S+) (%S+) (%S+) (%S+) (%S+)$")
  grant(use.org, tonumber(org))
  grant(use.key, tonumber(key))
  use.limit, use.remaining, use.reset = limit, tonumber(remaining), reset
end

-- The lines that report what was let pass, and the uses that they are about.
local function report()
  local lines, reported = {}, {}
  local due = urgent and math.huge or clock() - REPORT
  while first <= last and #lines < REPORTED and queue[first].since <= due do
    local use = queue[first]
    queue[first], first = nil, first + 1
    lines[#lines + 1] = "u " .. use.count .. " " .. use.whose
    reported[#reported + 1], use.count = use, 0
  end
  urgent = urgent and first <= last
  return lines, reported
end

local function post(handle, version, question, asynchronous)
  local lines, reported = report()
  report_at = clock() + REPORT
  question[":method"], question[":path"], question[":authority"] = "POST", LEASE_PATH, PROXY
  local body = version
  if #lines > 0 then
    body = body .. "\n" .. table.concat(lines, "\n")
  end
  local headers, answer = handle:httpCall(PROXY, question, body, PATIENCE, asynchronous)
  if asynchronous or headers == nil or headers[":status"] ~= "200" then
    return nil
  end
  return answer, reported
end

local function removed_of(names)
  local removed = removals[names]
  if removed == nil then
    removed = {}
    for name in string.gmatch(names, "[^,]+") do
      removed[#removed + 1] = name
    end
    removals[names] = removed
  end
  return removed
end

local function entry_of(fields, asked_at)
  local entry = {key = fields[6], use = use_of(fields[5]), pass = fields[8], removed = removed_of(fields[9])}
  entry.fresh_until, entry.good_until = asked_at + tonumber(fields[3]), asked_at + tonumber(fields[4])
  set_terms(entry.use, fields[7])
  -- The headers that are set: names and values in turn.
  for i = 10, #fields do
    entry[#entry + 1] = fields[i]
  end
  return entry, fields[2]
end

-- A field may be empty: the subject of a token.
local function split(line)
  local fields = {}
  for field in string.gmatch(line .. "\t", "([^\t]*)\t") do
    fields[#fields + 1] = field
  end
  return fields
end

-- Takes in "version milliseconds reset sample seed", the answer to a worker that knew `asked` then. False where nothing
-- that it says may be kept: the proxy knows less than this worker, or tells only what changed since `asked`, while this
-- worker has started over from before that.
local function renew(line, asked_at, asked)
  local version, lease, reset, share, random = string.match(line, "^v (%d+) (%d+) ([01]) (%S+) (%x+)$")
  version = tonumber(version)
  if known == nil and numbers == 0 then
    math.randomseed(tonumber(string.sub(random, 1, 8), 16))
  end
  seed, sample = random, tonumber(share)
  if known ~= nil and version < known then
    behind = behind + 1
    if behind >= BEHIND then
      forget_all()
      known, lease_until, behind, ask_at = nil, 0, 0, 0
    end
    return false
  end
  behind = 0
  if reset == "0" and known ~= nil and (asked == nil or asked > known) then
    return false
  end
  if reset == "1" then
    forget_all()
  end
  local milliseconds = tonumber(lease)
  if milliseconds > 0 then
    known = version
    half_lease = milliseconds / 2
    lease_until = math.max(lease_until, asked_at + milliseconds)
    ask_at = lease_until - half_lease
  else
    half_lease = AGAIN
  end
  return milliseconds > 0
end

-- Asks the proxy, about a request where `question` has one. Gives whether it answered, and if the request passes, the
-- decision, its id, and whether it may be repeated.
local function ask(handle, question)
  local asked_at, asked = clock(), known
  local answer, reported = post(handle, asked == nil and "-" or string.format("%d", asked), question, false)
  if answer == nil then
    return false
  end
  local lasting, terms, keys, entry, decision_id = false, 0, nil, nil, nil
  for line in string.gmatch(answer, "[^\n]+") do
    local kind = string.sub(line, 1, 1)
    if kind == "v" then
      lasting = renew(line, asked_at, asked)
    elseif kind == "t" then
      terms = terms + 1
      set_terms(reported[terms], string.sub(line, 3))
    elseif kind == "e" then
      entry, decision_id = entry_of(split(line), asked_at)
    elseif kind == "i" then
      forget_instance(string.sub(line, 3))
    else
      keys = keys or {}
      keys[string.sub(line, 3)] = true
    end
  end
  if keys ~= nil then
    forget_keys(keys)
  end
  return true, entry, decision_id, lasting
end

local function next_number()
  numbers = numbers + 1
  return string.format("%08x", numbers % 4294967296)
end

local function new_trace()
  local number = next_number()
  return "00-" .. seed .. number .. "-" .. string.sub(seed, 1, 8) .. number .. "-00"
end

-- Makes the request what the decision says, and tells ext_authz that it is decided.
local function apply(handle, entry, decision_id)
  -- Got anew: headers from before a question are out of scope after it.
  local headers = handle:headers()
  for _, name in ipairs(entry.removed) do
    headers:remove(name)
  end
  for i = 1, #entry, 2 do
    headers:replace(entry[i], entry[i + 1])
  end
  if headers:get("traceparent") == nil then
    headers:replace("traceparent", new_trace())
  end
  local metadata = handle:streamInfo():dynamicMetadata()
  local use = entry.use
  if use.remaining ~= nil then
    metadata:set(DECISION, RATE[1], use.limit)
    metadata:set(DECISION, RATE[2], string.format("%d", math.max(0, use.remaining - use.count)))
    metadata:set(DECISION, RATE[3], use.reset)
  end
  metadata:set(DECISION, DECISION_ID, decision_id)
  if LOGGED then
    metadata:set(DECISION, INSTANCE, use.names[1])
    metadata:set(DECISION, ORG, use.names[2])
  end
  handle:clearRouteCache()
  -- This comes last: from here on ext_authz is not asked.
  metadata:set(DECISION, PASS, entry.pass)
end

local function is_left(of)
  return of.left == nil or of.left >= 1
end

local function take(of)
  if of.left ~= nil then
    of.left = of.left - 1
    urgent = urgent or of.left < of.half
  end
end

local function count(use)
  take(use.org)
  take(use.key)
  if use.count == 0 then
    last = last + 1
    queue[last] = use
    use.since = clock()
  end
  use.count = use.count + 1
end

local function is_good(entry, now)
  if type(entry) ~= "table" or now >= entry.good_until then
    return false
  end
  return is_left(entry.use.org) and is_left(entry.use.key)
end

local function repeat_it(handle, entry)
  count(entry.use)
  apply(handle, entry, "dec_" .. string.sub(seed, 1, 12) .. next_number())
end

-- Asks about a request that is not remembered: when it comes for the second time, so that what comes once costs no more.
local function learn(handle, headers, id, authorization, entry, now, drawn)
  if entry == nil then
    keep(id, authorization, 0)
    return
  end
  if type(entry) == "number" and now < entry then
    return
  end
  local question = {["x-orch8-asked"] = headers:get(":method") .. " " .. string.match(headers:get(":path"), "^[^?]*")}
  if authorization ~= "" then
    question["authorization"] = authorization
  end
  if drawn then
    question["x-orch8-drawn"] = "1"
  end
  local answered, found, decision_id, lasting = ask(handle, question)
  if not answered then
    return
  end
  if found == nil then
    keep(id, authorization, clock() + REFUSED)
    return
  end
  if lasting then
    keep(id, authorization, found)
  end
  apply(handle, found, decision_id)
end

-- What the decision depends on, where it depends on nothing else.
local function question_of(headers)
  local id, after = string.match(headers:get(":path") or "", "^/api/tunnel/(inst_[a-z0-9]+)(.?)")
  if id == nil or #id > LONGEST_ID or (after ~= "" and after ~= "/" and after ~= "?") then
    return nil
  end
  if headers:get("cookie") ~= nil or headers:get("upgrade") ~= nil or headers:getNumValues("authorization") > 1 then
    return nil
  end
  local accept = headers:get("accept")
  if accept ~= nil and string.find(string.lower(accept), "text/event-stream", 1, true) ~= nil then
    return nil
  end
  local authorization = headers:get("authorization") or ""
  if #authorization > LONGEST then
    return nil
  end
  return id, authorization
end

local function is_busy(now)
  if now >= window_end then
    busy = BUSY == 0 or (in_window >= BUSY and now < window_end + WINDOW)
    in_window, window_end = 0, now + WINDOW
  end
  in_window = in_window + 1
  return busy
end

-- Whether this request has to ask: the proxy wants to see it, or its entry should be renewed. While one asks, others go on.
local function is_drawn(entry, now)
  if type(entry) ~= "table" then
    return false
  end
  if now >= draw_at and math.random() < sample then
    draw_at = now + DRAWN
    return true
  end
  if now < entry.fresh_until then
    return false
  end
  entry.fresh_until = now + PATIENCE
  return true
end

local function decide(handle, now)
  local id, authorization = question_of(handle:headers())
  if id == nil or not is_busy(now) then
    return
  end
  if now >= ask_at then
    ask_at = now + half_lease
    ask(handle, {})
    now = clock()
  end
  if now >= lease_until then
    return
  end
  local entry = recall(id, authorization)
  local drawn = is_drawn(entry, now)
  if drawn or not is_good(entry, now) then
    learn(handle, handle:headers(), id, authorization, entry, now, drawn)
  else
    repeat_it(handle, entry)
  end
end

function envoy_on_request(handle)
  if clock == nil then
    return
  end
  local now = clock()
  decide(handle, now)
  if first <= last and now >= report_at then
    post(handle, "counts", {}, true)
  end
end
