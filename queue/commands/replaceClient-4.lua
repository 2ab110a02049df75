--[[
  Adds, changes or removes one client, if its record is still what the caller read, and tells the journal.
  One command for all of it, so that a change, the new version of the register and the event can never part.

  KEYS[1]  hash of the register: name -> record
  KEYS[2]  version of the register
  KEYS[3]  stream of the register's events for the journal
  KEYS[4]  set of the names that were removed
  ARGV[1]  name
  ARGV[2]  record that the caller read; empty: there was none
  ARGV[3]  new record; empty: remove it
  ARGV[4]  most clients the register may hold
  ARGV[5]  block of events that tells of the change

  Returns  1 changed, 0 the record is another one by now, -1 the register is full, -2 the name was removed once
]]
local current = redis.call('HGET', KEYS[1], ARGV[1])
if (current or '') ~= ARGV[2] then
  return 0
end
if not current and redis.call('SISMEMBER', KEYS[4], ARGV[1]) == 1 then
  return -2
end
if not current and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then
  return -1
end
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('SADD', KEYS[4], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
redis.call('INCR', KEYS[2])
redis.call('XADD', KEYS[3], '*', 'b', ARGV[5])
return 1
