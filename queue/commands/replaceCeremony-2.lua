--[[
  Adds or changes one ceremony, if its record is still what the caller read, and tells the journal.

  KEYS[1]  hash of the ceremonies: id -> record
  KEYS[2]  stream of the register's events for the journal
  ARGV[1]  id
  ARGV[2]  record that the caller read; empty: there was none
  ARGV[3]  new record
  ARGV[4]  block of events that tells of the change

  Returns  1 changed, 0 the record is another one by now
]]
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('XADD', KEYS[2], '*', 'b', ARGV[4])
return 1
