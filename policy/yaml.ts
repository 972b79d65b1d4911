/** What plain words mean in YAML as kubectl reads it: version 1.1, as go-yaml resolves it. */
import type { ScalarTag, Tags } from 'yaml'

/** Tags of version 1.1 that no manifest means; a word that looks like one is a string. */
const IGNORED_TAGS = new Set([
  'tag:yaml.org,2002:timestamp',
  'tag:yaml.org,2002:binary',
  'tag:yaml.org,2002:set',
  'tag:yaml.org,2002:omap',
  'tag:yaml.org,2002:pairs',
])
const FLOAT_TAG = 'tag:yaml.org,2002:float'

/** A float has a digit before its exponent: e0 and a lone point are words. */
const FLOAT = /^[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9_]*[0-9][0-9_]*)$/
const FLOAT_WITH_EXPONENT = /^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9_]*[0-9][0-9_]*)[eE][-+]?[0-9]+$/

/** For the option customTags, with version 1.1. */
export function kubectlTags(tags: Tags): Tags {
  return tags
    .filter((tag) => typeof tag === 'string' || (!IGNORED_TAGS.has(tag.tag) && !('format' in tag && tag.format === 'TIME')))
    .map((tag) => (isPlainFloat(tag) ? { ...tag, test: tag.format === 'EXP' ? FLOAT_WITH_EXPONENT : FLOAT } : tag))
}

/** Not those of infinity and of what is no number. */
function isPlainFloat(tag: Tags[number]): tag is ScalarTag {
  return typeof tag !== 'string' && tag.tag === FLOAT_TAG && 'test' in tag && tag.test?.test('.5e1') !== tag.test?.test('.5')
}
