"""English words for the gates: data only. Pairs are written `a/b`, groups of one meaning `a=b=c`."""

from __future__ import annotations

STOP = """
a about above across after again against all also although always am among an and another any anybody anyone anything are around as at be because
been before being below between both but by came can could did do does doing done down during each either else enough etc even ever every
everybody everyone everything few for from get gets getting give go goes going got had has have having he her here hers herself him himself his
how however i if im in into is it its itself ive just keep kind kinda know let like lot lots make makes many may maybe me might mine more most
much must my myself need needs never no nobody none nor not nothing now of off often ok on once one ones only onto or other others our ours
ourselves out over own per perhaps please quite rather re really shall she should so some somebody someone something sometimes still such take
than that the their theirs them themselves then there these they thing things this those though through till to together too toward towards u
under until up upon us use used uses using very via want wants was way ways we well were what whatever when where whether which while who whom
whose why will with within without would yes yet you your yours yourself r ur thru vs versus currently actually basically exactly simply
specifically generally usually typically possibly probably ll ve d t s m gonna wanna don didn doesn isn aren wasn weren couldn wouldn shouldn
"""

COMMON = """
able accept according account act action add advice age ago agree allow almost alone along already amount answer apart appear apply area arrive ask
average away baby back bad ball bank base basic bear beat beautiful become bed begin behind believe benefit best better big bit black blue board body
book born box boy break bring brother brown build building business buy call called car card care carry case catch cause center central certain chance
change character charge cheap check child children choice choose city class clean clear close cold college color come common community company compare
complete computer condition consider contain continue control correct cost country couple course cover create cross current cut daily dark data date
daughter day dead deal death decide deep degree describe design detail develop die difference different difficult direct do doctor dog door down draw
dream drive drop early earth easily easy eat economy education effect effective end energy enjoy enter equal event example exist expect experience explain
eye face fact fail fall family famous far fast father favorite feel feeling field fight figure fill final finally find fine fire first fish fit fix
floor follow food foot force foreign forget form free friend front full fun function future game general girl glass god good government great green
ground group grow guy hair half hand happen happy hard head health hear heart heavy help high history hit hold home hope hot hour house huge human
hundred husband idea image important improve include increase individual industry information inside instead interest interested interesting internet
issue item job join joke keep key kid kill kind king kitchen lady land language large last late later laugh law lead learn least leave left leg less
lesson level lie life light limit line list listen little live local long look lose loss love low lower machine main major man manage mark market marry
matter mean meaning measure meet member mention method middle mind minute miss modern moment money month morning mother mouth move movie music name
national natural nature near necessary new news next nice night normal note notice number object offer office old open opinion option order original
outside own page pain paper parent part particular party pass past pay peace people perfect period person phone photo pick picture piece place plan
plant play point poor popular position positive possible power practice prefer prepare present president pretty prevent price private probably problem
process produce product program project prove provide public pull purpose push put quality question quick quickly quite rate reach read ready real
reality realize reason receive recent recently recommend red relationship remember remove require research rest result return rich ride right rise risk
road room rule run safe same save say school science sea search season second secret see seem self sell send sense serious serve service set several sex
share short show side sign similar simple since single sister sit site situation size skill sleep slow small social society solution solve son song soon
sort sound source south space speak special specific speed spend stand standard star start state stay step stop store story street strong student study
stuff style subject succeed success successful sudden suggest suitable support sure system table talk teach teacher team tell term test text thank
theory think thought thousand throw time tip today tomorrow tonight top total touch town track trade train travel treat tree trouble true trust truth
try turn type understand unit university usual value various video view visit voice wait walk wall war watch water wear weather web website week weight
white whole wife win window wish wonder word work worker world worry worst worth write wrong year young world actual advantage affect available big
biggest highest largest lowest smallest cheapest easiest fastest greatest longest shortest tallest
"""

# Words that change nothing when they are added or left out beside a noun or verb.
WEAK = """
best good great better top nice popular famous common main major important possible simple easy quick quickly easily fast effective effectively
proper properly correct correctly exact really actual actually real true truly current currently recent recently specific particular certain
example examples list name names called mean means meaning define definition describe explain tell say think thought thoughts opinion opinions
view views feel believe suggest suggestion suggestions recommend recommendation recommendations advice tip tips help idea ideas know find found
see look learn understand start begin try become make made people person human humans someone world life time times ever most more much lot
different various kind kinds type types sort sorts way ways method methods process step steps reason reasons thing things stuff option options
work works happen happens happened happening exist exists use useful usually normally generally considered consider seem seems like feel going
come came take took put want need needed require required able possible today day days now ever long well new ones sure should would could
favorite favourite like look good interesting amazing awesome cool mind whole entire own such etc actually difference question questions answer
answers ask asked asking anyone experience experiences get got getting go goes gone give given
"""

NEGATORS = """
not no never without none nobody nothing neither nor nowhere cannot hardly unable rarely seldom barely scarcely
"""
SOFT_NEGATORS = """
avoid prevent stop quit refuse fail lack ban forbid prohibit except exclude undo reject deny ignore skip decline
"""
# What people say where others say "stop" or "avoid".
AGAINST = """
overcome beat fight treat cure rid remove reduce control deal kill eliminate lose handle leave end resist block disable delete cancel protect
break conquer manage minimize survive escape limit save cope recover fix solve relieve illegal
"""
# Beside these a negation says nothing of its own.
NEGATION_IDIOMS = (
    "why or why not", "or why not", "if not", "or not", "whether or not", "yes or no", "or no", "not only", "no matter", "not just", "do not you think",
    "do you not think", "no doubt", "not to mention", "no idea", "do not know how", "do not know what", "do not know why", "do not know where", "am not sure",
    "do not understand how", "do not understand why", "do not understand what", "can not figure out how", "non stop", "stop at nothing",
)

CONTRACTIONS = {
    "don't": "do not", "dont": "do not", "doesn't": "does not", "doesnt": "does not", "didn't": "did not", "didnt": "did not",
    "can't": "can not", "cant": "can not", "cannot": "can not", "won't": "will not", "wont": "will not", "isn't": "is not", "isnt": "is not",
    "aren't": "are not", "arent": "are not", "wasn't": "was not", "wasnt": "was not", "weren't": "were not", "werent": "were not",
    "hasn't": "has not", "hasnt": "has not", "haven't": "have not", "havent": "have not", "hadn't": "had not", "hadnt": "had not",
    "wouldn't": "would not", "wouldnt": "would not", "couldn't": "could not", "couldnt": "could not", "shouldn't": "should not",
    "shouldnt": "should not", "mustn't": "must not", "mustnt": "must not", "needn't": "need not", "mightn't": "might not",
    "shan't": "shall not", "ain't": "is not", "aint": "is not", "what's": "what is", "whats": "what is", "who's": "who is", "whos": "who is",
    "where's": "where is", "wheres": "where is", "how's": "how is", "hows": "how is", "when's": "when is", "why's": "why is",
    "it's": "it is", "that's": "that is", "thats": "that is", "there's": "there is", "theres": "there is", "here's": "here is",
    "let's": "let us", "i'm": "i am", "im": "i am", "i've": "i have", "ive": "i have", "i'd": "i would", "i'll": "i will",
    "you're": "you are", "youre": "you are", "you've": "you have", "you'd": "you would", "you'll": "you will", "we're": "we are",
    "we've": "we have", "we'll": "we will", "they're": "they are", "they've": "they have", "they'll": "they will", "he's": "he is",
    "she's": "she is", "gonna": "going to", "wanna": "want to", "gotta": "have to", "wat": "what", "pls": "please", "plz": "please",
    "bcoz": "because", "cuz": "because", "tho": "though", "thx": "thanks", "what're": "what are", "how'd": "how did", "who'd": "who would",
}

IRREGULAR = """
won=win bought=buy sold=sell written=write wrote=write men=man women=woman children=child kids=child kid=child people=person persons=person
humans=human went=go gone=go goes=go did=do does=do done=do made=make said=say told=tell thought=think taught=teach caught=catch brought=bring
found=find felt=feel left=left lost=lose met=meet paid=pay sent=send spent=spend built=build kept=keep slept=sleep got=get gotten=get gave=give
given=give took=take taken=take came=come became=become began=begin begun=begin ran=run saw=see seen=see knew=know known=know grew=grow
grown=grow flew=fly flown=fly drew=draw drawn=draw broke=break broken=break spoke=speak spoken=speak chose=choose chosen=choose froze=freeze
frozen=freeze stole=steal stolen=steal wore=wear worn=wear drove=drive driven=drive rode=ride ridden=ride rose=rise risen=rise ate=eat eaten=eat
fell=fall fallen=fall forgot=forget forgotten=forget hid=hide hidden=hide held=hold heard=hear led=lead lay=lie mice=mouse feet=foot teeth=tooth
geese=goose wives=wife lives=life knives=knife leaves=leaf halves=half shelves=shelf wolves=wolf thieves=thief selves=self data=data media=media
criteria=criterion bacteria=bacterium viruses=virus dying=die dies=die died=die lying=lie tying=tie was=be were=be is=be are=be am=be been=be has=have
had=have news=news means=means series=series species=species physics=physics mathematics=maths math=maths politics=politics economics=economics
evening=evening wedding=wedding during=during being=be hundred=hundred speed=speed shot=shoot shut=shut swam=swim sang=sing sung=sing drank=drink
drunk=drunk understood=understand stood=stand struck=strike swore=swear threw=throw thrown=throw woke=wake torn=tear tore=tear blew=blow blown=blow
best=best better=better worse=worse worst=worst bed=bed red=red
"""

ANTONYMS = """
increase/decrease increase/reduce increase/lower raise/lower raise/reduce grow/shrink rise/fall gain/lose gain/loss expand/contract extend/shorten
lengthen/shorten widen/narrow enlarge/shrink maximize/minimize maximum/minimum max/min most/least more/less more/fewer many/few highest/lowest
higher/lower high/low upper/lower top/bottom up/down upward/downward upwards/downwards ascend/descend ascending/descending climb/descend open/close
opened/closed opening/closing start/stop start/end start/finish start/quit begin/end begin/finish beginning/end launch/quit initial/final first/last
earliest/latest early/late earlier/later before/after previous/next prior/subsequent past/future old/new oldest/newest oldest/youngest old/young
older/younger older/newer ancient/modern import/export input/output inbound/outbound incoming/outgoing entrance/exit enter/exit enter/leave
arrive/depart arrive/leave arrival/departure come/go inside/outside indoor/outdoor indoors/outdoors interior/exterior internal/external inner/outer
inward/outward into/out buy/sell purchase/sell buyer/seller buying/selling purchase/sale customer/vendor customer/supplier borrow/lend borrower/lender
rent/buy lease/buy landlord/tenant debit/credit debtor/creditor deposit/withdraw deposit/withdrawal income/expense income/expenditure profit/loss
revenue/cost asset/liability assets/liabilities surplus/deficit supply/demand left/right leftmost/rightmost east/west north/south northern/southern
eastern/western northeast/southwest northwest/southeast clockwise/counterclockwise clockwise/anticlockwise horizontal/vertical row/column
rows/columns width/height length/width front/back forward/backward forwards/backwards forward/reverse ahead/behind push/pull upload/download
send/receive sender/receiver sender/recipient transmit/receive give/take give/receive offer/accept accept/reject accept/refuse accept/decline
approve/reject approve/deny allow/forbid allow/block allow/deny allow/prevent allow/ban permit/forbid permit/prohibit grant/revoke grant/deny
legal/illegal lawful/unlawful enable/disable activate/deactivate on/off attach/detach attach/remove connect/disconnect plug/unplug lock/unlock
install/uninstall install/remove mount/unmount mute/unmute block/unblock subscribe/unsubscribe follow/unfollow pin/unpin hide/show hide/unhide
show/hide visible/invisible visible/hidden encrypt/decrypt encode/decode encoding/decoding compress/decompress compress/extract zip/unzip pack/unpack
wrap/unwrap fold/unfold bind/unbind tie/untie do/undo undo/redo save/delete create/delete create/destroy create/remove add/remove add/delete
add/subtract addition/subtraction plus/minus insert/remove insert/delete append/remove include/exclude multiply/divide multiplication/division
integrate/differentiate integral/derivative sum/difference build/destroy build/demolish construct/destroy assemble/disassemble join/leave join/split
merge/split combine/separate unite/divide together/apart together/separately collect/distribute concentrate/dilute mix/separate fill/empty full/empty
load/unload charge/discharge heat/cool heating/cooling heater/cooler hot/cold warm/cool warm/cold warmer/colder warmer/cooler freeze/melt freeze/thaw
boil/freeze freezing/boiling wet/dry moist/dry humid/dry dry/moisten hard/soft hard/easy difficult/easy simple/complex simple/complicated easy/tough
harder/easier hardest/easiest strong/weak stronger/weaker strongest/weakest strength/weakness strengthen/weaken strengths/weaknesses tight/loose
tighten/loosen thick/thin thicker/thinner thickest/thinnest fat/thin fat/slim wide/narrow wider/narrower broad/narrow deep/shallow deeper/shallower
big/small bigger/smaller biggest/smallest large/small larger/smaller largest/smallest tall/short taller/shorter tallest/shortest long/short
longer/shorter longest/shortest heavy/light heavier/lighter heaviest/lightest dark/light darker/lighter bright/dark bright/dim black/white day/night
daytime/nighttime morning/evening sunrise/sunset dawn/dusk summer/winter spring/autumn spring/fall fast/slow faster/slower fastest/slowest
quick/slow quickly/slowly rapid/slow speed/slow accelerate/decelerate accelerate/brake near/far nearest/farthest nearest/furthest close/far
closest/farthest good/bad good/evil good/poor better/worse best/worst positive/negative pro/con pros/cons advantage/disadvantage
advantages/disadvantages advantage/drawback benefit/drawback benefit/risk benefits/drawbacks benefits/risks benefits/harms benefit/disadvantage
beneficial/harmful merit/demerit merits/demerits upside/downside optimistic/pessimistic love/hate like/dislike like/hate loved/hated attract/repel
attraction/repulsion friend/enemy ally/enemy happy/sad happy/unhappy happiness/sadness joy/sorrow laugh/cry smile/frown hope/despair calm/angry
rich/poor richest/poorest wealth/poverty cheap/expensive cheaper/costlier cheapest/costliest expensive/inexpensive free/paid cost/benefit true/false
right/wrong correct/incorrect correct/wrong correctly/incorrectly correctly/wrongly accurate/inaccurate valid/invalid real/fake genuine/fake
genuine/counterfeit original/copy authentic/fake fact/fiction truth/lie honest/dishonest success/failure succeed/fail successful/unsuccessful
win/lose winner/loser victory/defeat pass/fail passed/failed alive/dead live/die life/death living/dead birth/death born/die born/died healthy/sick
healthy/unhealthy healthy/ill sick/well cure/cause treat/cause prevent/cause prevent/promote promote/inhibit promote/demote stimulate/inhibit
activate/inhibit agonist/antagonist acute/chronic benign/malignant systolic/diastolic artery/vein arterial/venous male/female man/woman men/women
boy/girl boys/girls boyfriend/girlfriend husband/wife father/mother dad/mom son/daughter brother/sister uncle/aunt nephew/niece king/queen
prince/princess actor/actress groom/bride mr/mrs he/she his/her parent/child parents/children ancestor/descendant predecessor/successor teacher/student
professor/student doctor/patient nurse/patient lawyer/client employer/employee boss/employee manager/employee hire/fire hired/fired master/slave
server/client host/guest attacker/defender attack/defend offense/defense predator/prey hunter/prey victim/perpetrator plaintiff/defendant
prosecutor/defendant guilty/innocent guilty/acquitted leader/follower trainer/trainee mentor/mentee interviewer/interviewee examiner/candidate
producer/consumer publisher/subscriber reader/writer read/write reading/writing speak/listen talk/listen ask/answer question/answer cause/effect
cause/consequence causes/effects causes/consequences causes/symptoms symptoms/treatment symptoms/causes cause/symptom cause/treatment diagnosis/treatment
problem/solution theory/practice absolute/relative active/passive active/inactive abstract/concrete abundant/scarce acid/alkaline acid/base
acidic/basic acidic/alkaline admit/deny adult/child advance/retreat affirm/deny agree/disagree agreement/disagreement analog/digital anode/cathode
aerobic/anaerobic anabolic/catabolic appear/disappear appearance/disappearance appoint/dismiss arrest/release artificial/natural synthetic/natural
asleep/awake sleep/wake sit/stand lie/stand rest/work automatic/manual automatically/manually automated/manual available/unavailable backup/restore
bull/bear bullish/bearish call/put capitalism/communism capitalism/socialism catch/throw catch/release cause/cure certain/uncertain clean/dirty
clear/blurry clear/cloudy clever/stupid smart/dumb smart/stupid intelligent/stupid clockin/clockout common/rare commonly/rarely common/uncommon
compulsory/optional mandatory/optional required/optional conscious/unconscious conservative/liberal consistent/inconsistent constant/variable
constructive/destructive continue/stop continuous/discrete conductor/insulator cooked/raw cooked/uncooked countable/uncountable courage/fear
curved/straight dangerous/safe deductive/inductive defeat/win defensive/offensive definite/indefinite democrat/republican democratic/republican
dependent/independent direct/indirect directly/indirectly domestic/foreign domestic/international domestic/wild drunk/sober dynamic/static
eat/vomit eastbound/westbound northbound/southbound efficient/inefficient electron/proton employed/unemployed encourage/discourage endothermic/exothermic
equal/unequal even/odd exact/approximate exclude/include exclusive/inclusive exhale/inhale explicit/implicit explode/implode export/import
fail/succeed fair/unfair familiar/unfamiliar famous/unknown female/male fertile/infertile finite/infinite fixed/variable fixed/floating flexible/rigid
forget/remember formal/informal found/lost freedom/slavery frequent/rare frequently/rarely always/never often/rarely often/seldom fresh/stale
fresh/frozen fresh/rotten freshwater/saltwater full/partial full/half gather/scatter general/specific generous/stingy gross/net global/local
guilty/guiltless hardware/software heaven/hell hero/villain hetero/homo homogeneous/heterogeneous host/parasite ignorance/knowledge imaginary/real
import/deport immigrate/emigrate immigration/emigration immigrant/emigrant immune/susceptible inferior/superior inflate/deflate inflation/deflation
informed/uninformed inferior/better intentional/accidental intentionally/accidentally introvert/extrovert introverts/extroverts invest/divest
inclusive/exclusive junior/senior kind/cruel lead/follow leading/lagging liquid/solid liquid/gas solid/gas lossless/lossy loud/quiet louder/quieter
lucky/unlucky major/minor majority/minority married/single married/unmarried married/divorced marry/divorce mature/immature mental/physical
micro/macro microscopic/macroscopic military/civilian mobile/stationary moral/immoral moving/still mortal/immortal multiple/single native/foreign
necessary/unnecessary noise/silence normal/abnormal nominal/real noun/verb adjective/adverb vowel/consonant numerator/denominator nullable/required
obese/underweight overweight/underweight obey/disobey objective/subjective offline/online odd/even opaque/transparent optimal/suboptimal
optimist/pessimist oral/intravenous orally/rectally ordered/unordered sorted/unsorted organic/inorganic overestimate/underestimate over/under
above/below overpaid/underpaid overdose/underdose oxidation/reduction oxidize/reduce parallel/serial parallel/perpendicular parallel/series
sequential/parallel series/parallel peace/war perfect/imperfect permanent/temporary permanently/temporarily personal/professional personal/business
plural/singular plaintext/ciphertext polar/nonpolar polite/rude possible/impossible potential/kinetic powerful/powerless practical/theoretical
present/absent presence/absence pregnant/unpregnant primary/secondary private/public probable/improbable productive/unproductive prepaid/postpaid
proactive/reactive protect/expose proud/ashamed provider/consumer punish/reward punishment/reward pure/impure qualitative/quantitative quality/quantity
rational/irrational reliable/unreliable relevant/irrelevant religious/secular remember/forget remote/local remote/onsite renewable/nonrenewable
repair/break fix/break resign/hire responsible/irresponsible retail/wholesale reversible/irreversible rough/smooth round/square rural/urban sad/glad
safe/unsafe safe/risky same/different saturated/unsaturated secure/insecure selfish/selfless sharp/blunt sharp/dull sharpen/blunt short/tall
sick/recovered similar/different sink/float sit/rise skilled/unskilled slavery/freedom smooth/rough sober/intoxicated sour/sweet sweet/bitter
sweet/salty stable/unstable stay/leave stay/go stay/move stop/go stop/continue straight/crooked success/fail sunny/cloudy sunny/rainy superior/inferior
supervised/unsupervised symmetric/asymmetric synchronous/asynchronous taxable/exempt tax/exempt teach/learn thesis/antithesis thaw/freeze
tie/untie tiny/huge transparent/opaque trust/distrust truth/falsehood turnon/turnoff ugly/beautiful undergraduate/graduate undergraduate/postgraduate
unilateral/bilateral upgrade/downgrade upgrading/downgrading update/rollback deploy/rollback uphill/downhill upstairs/downstairs upstream/downstream
upload/delete useful/useless uptime/downtime utopia/dystopia vacant/occupied vertical/horizontal vegetarian/carnivore herbivore/carnivore
veteran/novice expert/beginner expert/novice beginner/advanced basic/advanced elementary/advanced virtue/vice visible/unseen voluntary/compulsory
voluntary/involuntary voluntarily/involuntarily vote/veto wanted/unwanted wealthy/poor wholesome/harmful wide/thin with/without wired/wireless
withdraw/contribute worthy/unworthy writable/readonly zoom/pan hypertension/hypotension hyperglycemia/hypoglycemia hyperthyroidism/hypothyroidism
hyperthermia/hypothermia hyperkalemia/hypokalemia tachycardia/bradycardia vasodilation/vasoconstriction dilate/constrict dilation/constriction
inspiration/expiration anterior/posterior dorsal/ventral proximal/distal medial/lateral superficial/deep flexion/extension flex/extend sterile/nonsterile
sterile/contaminated contaminate/decontaminate infect/disinfect infectious/noninfectious prone/supine inpatient/outpatient admit/discharge
admission/discharge prescribe/discontinue nonfiction/fiction precision/recall encoder/decoder producer/destroyer breakfast/dinner lunch/dinner
breakfast/lunch vitamin/mineral virus/bacteria viral/bacterial stack/queue push/pop http/https tcp/udp ipv4/ipv6 ram/rom cpu/gpu get/post
frontend/backend compile/decompile assembler/disassembler commit/rollback clone/delete checkout/checkin login/logout logon/logoff signin/signout signup/signin
serialize/deserialize allocate/deallocate acquire/release reserve/release reserve/cancel book/cancel order/cancel confirm/cancel submit/cancel
schedule/cancel pause/resume suspend/resume play/pause play/stop expire/renew renew/cancel attach/unattach mount/dismount engage/disengage couple/decouple
assign/unassign register/unregister register/deregister check/uncheck select/deselect archive/unarchive publish/unpublish load/save backup/delete
roll/unroll screw/unscrew wind/unwind dress/undress cover/uncover veil/unveil freeze/unfreeze tag/untag link/unlink friend/unfriend sync/unsync
inflow/outflow influx/outflow intake/exhaust ingress/egress inlet/outlet suction/discharge upload/remove onshore/offshore overtime/undertime
"""
# Where one is the plain denial of the other, so that "not safe" and "unsafe" agree.
CONTRADICTORY = """
safe/dangerous safe/unsafe safe/risky true/false right/wrong correct/wrong alive/dead allow/forbid allow/ban legal/illegal healthy/unhealthy possible/impossible
succeed/fail success/failure successful/unsuccessful pass/fail present/absent working/broken agree/disagree like/dislike visible/hidden
visible/invisible mandatory/optional required/optional compulsory/optional married/single real/fake love/hate same/different easy/difficult easy/hard
good/bad clean/dirty happy/unhappy happy/sad remember/forget find/lose continue/stop start/stop free/paid works/fails lose/win
"""

SYNONYMS = """
buy=purchase=get=order begin=start=commence end=finish=complete=conclude help=assist=aid fix=repair=solve=resolve=troubleshoot big=large=huge=great
small=little=tiny quick=fast=rapid=speedy doctor=physician medicine=drug=medication=meds cost=price=fee=charge car=automobile=vehicle=auto
phone=telephone=mobile=smartphone=cellphone=cell picture=photo=image=photograph=pic=pics movie=film=cinema=flick job=work=employment=career=profession
earn=make=gain get=obtain=receive=acquire=gain=have child=kid=youngster=children error=fault=bug=issue=problem=mistake=trouble difficulty=problem
answer=reply=response=solution ask=inquire=query=question advantage=benefit=pro=upside=perk disadvantage=drawback=con=downside
reduce=decrease=lower=lessen=cut=minimize=lose=shed=drop increase=raise=boost=improve=grow=enhance=gain improve=enhance=better=develop=upgrade
learn=study=master method=way=technique=approach=procedure=manner=trick method=process=strategy stop=quit=cease=halt avoid=prevent=stop
delete=remove=erase=clear=uninstall remove=eliminate=rid create=make=build=develop=generate=produce=design build=construct show=display
choose=select=pick choose=decide talk=speak=chat=converse tell=say=inform happy=glad=joyful sad=unhappy=depressed smart=intelligent=clever=bright
stupid=dumb=idiotic rich=wealthy poor=broke famous=popular=renowned=known=celebrated important=significant=crucial=vital=essential=key
difficult=hard=tough=challenging easy=simple=effortless=straightforward strange=weird=odd=unusual=bizarre beautiful=pretty=gorgeous=attractive
ugly=unattractive funny=hilarious=humorous=amusing interesting=fascinating amazing=awesome=incredible=astonishing=mindblowing=best
best=greatest=finest=top=good=great=better worst=baddest scared=afraid=frightened fear=afraid angry=mad=furious=upset sick=ill=unwell
illness=disease=sickness=disorder pain=ache=hurt=sore weight=fat=kilo pounds=weight woman=lady=female man=guy=male girl=female boy=male
girlfriend=gf boyfriend=bf wife=spouse husband=spouse mom=mother=mum=mama dad=father=papa parents=parent company=firm=business=organization=corporation
business=startup=enterprise money=cash=funds=dollars country=nation=state city=town road=street house=home=residence live=reside=stay
teacher=professor=instructor=tutor student=pupil=learner college=university=school=institute institute=institution exam=test=examination
class=course=lecture=lesson book=novel=textbook website=site=webpage=web=page=blog internet=web=online=net app=application=apps software=program=tool
program=code programming=coding programmer=coder=developer laptop=notebook=computer computer=pc computer=machine password=passcode=pin login=signin=logon
email=mail=gmail message=text=msg=sms photo=selfie wifi=wireless fridge=refrigerator tv=television bike=bicycle=cycle motorcycle=motorbike=bike
plane=airplane=aircraft=aeroplane trip=journey=travel=tour=vacation vacation=holiday visit=see see=watch=view look=appear=seem watch=view
hear=listen eat=consume drink=consume food=meal=dish=cuisine soda=pop tasty=delicious=yummy cook=prepare=make recipe=prepare sleep=rest=nap
die=death=dead=pass kill=murder=slay=assassinate suicide=kill fight=battle=combat war=conflict win=victory=beat=triumph election=vote=elect=presidency
president=presidential=potus prime=pm minister=pm pm=premier law=legal=legislation lawyer=attorney=advocate police=cop=cops prison=jail
gun=firearm=weapon god=deity=lord religion=faith=belief believe=think=belief think=opinion=thought=view=believe=feel thoughts=opinion=view=think
reason=cause=why=factor cause=make=lead=produce=result happen=occur=place=take mean=meant=meaning=definition=define=signify stand=mean
explain=describe=elaborate example=instance=sample instance=example difference=differ=differentiate=distinguish=different=distinction
similar=alike=same=like compare=comparison=versus start=launch=open=begin close=shut=end open=start shut=close near=nearby=close
allowed=permitted=legal=can allow=let=permit let=allow permit=permission require=need=requirement=necessary necessary=needed=required want=wish=desire
like=love=enjoy=prefer hate=dislike=despise=loathe love=adore miss=yearn date=dating relationship=relation marry=marriage=wedding=wed sex=intercourse
baby=infant=newborn pregnant=pregnancy birth=born hair=hairs skin=face belly=stomach=tummy=abdomen stomach=abdominal heart=cardiac teeth=tooth=dental
brain=mind mind=mental exercise=workout=training=fitness gym=workout diet=eating=nutrition body=physique muscle=muscles healthy=health tall=height
height=tall long=length=duration old=age age=old=aged year=annual=yearly month=monthly day=daily week=weekly often=frequently=regularly
usually=normally=typically=generally quickly=fast=rapidly=soon instantly=immediately=quickly now=currently=today=nowadays=presently=present
modern=contemporary=today future=upcoming=coming recent=latest=newest=new latest=newest=current possible=feasible=can able=can=capable
information=info=details=data info=knowledge=details knowledge=skill skill=ability=talent=skills ability=capability=power group=team=band
list=enumerate number=amount=count=quantity many=several=multiple=various=numerous some=few=certain type=kind=sort=variety=category=form
part=portion=section=component=piece whole=entire=complete=full total=overall=whole kind=nice=friendly=gentle people=person=folk=folks=human=individual=guys
everyone=everybody=all someone=somebody=anyone=anybody=person something=anything=thing place=location=spot=area=site=where places=destinations
store=shop=market sell=market market=marketing advertise=advertising=ad=ads=advertisement=promote=promotion ad=advertisement follower=follow
investment=invest=investing stock=share=stocks=shares=equity tax=taxes=taxation salary=pay=wage=income=compensation=package=paid
income=revenue=earnings loan=credit debt=loan rent=lease hire=recruit=employ interview=interviews placement=job resume=cv quit=resign=leave
leave=depart=exit go=travel=move=visit move=relocate=shift shift=move=transfer switch=change=move=shift change=alter=modify=convert=switch
convert=transform=change=turn become=turn=be turn=become transfer=move=send send=mail=transmit=deliver receive=get join=enter=participate
enter=access use=utilize=employ=apply=usage use=purpose=uses purpose=goal=aim=use=point purpose=reason=meaning goal=target=objective=aim try=attempt
handle=manage=deal=cope control=manage overcome=conquer=beat=defeat=cope=recover=fight=cure forget=overcome cure=treat=heal=remedy=treatment
treatment=therapy=remedy symptom=sign=symptoms sign=indication=symptom test=check=examine check=verify=confirm=see know=understand=learn=tell
understand=comprehend=grasp discover=find=invent invent=invention=create find=locate=search=discover=get=look search=look=find seek=look
recover=restore=retrieve=regain=back reset=recover=change save=store=keep keep=maintain=retain maintain=preserve protect=secure=guard=safeguard
secure=safe danger=risk=hazard dangerous=risky=unsafe=harmful=hazardous harmful=bad=harm damage=harm=hurt=injury effect=impact=influence=consequence=affect
affect=impact=influence result=outcome=consequence=effect impact=consequence change=difference gas=petrol=gasoline=fuel electricity=power=electric
energy=power power=strength strong=powerful fast=speed speed=velocity truth=true true=real=fact real=actual=genuine=reality fake=false=counterfeit
lie=false secret=hidden fact=facts story=tale joke=jokes=pun music=song=songs=tune singer=artist=musician actor=actress=star game=gaming=games=videogame
player=players team=club sport=sports football=soccer=footballer film=bollywood letter=mail resolution=resolutions word=term=phrase sentence=phrase
language=tongue speak=fluent english=spoken accent=pronunciation pronounce=pronunciation=say write=compose=author=written article=post=blog
post=publish=upload=write=submit=ask note=notes question=query=questions questions=queries quora=here follow=follows delete=deactivate account=profile=id
username=name name=called=title title=headline hack=hacking=hacker=crack download=get free=gratis=cost upload=post=share share=post url=link=address
virus=malware crash=freeze=hang slow=lag=sluggish battery=charge demonetization=ban=demonetisation=notes currency=note=notes=rupee rs=rupee=rupees=inr
usa=america=us uk=britain=england vs=versus=against=between india=indian=indians muslim=muslims=islam ai=artificial=intelligence ml=machine=learning
db=database databases=database dob=birthday birthday=born info=information approx=approximately=about=around grow=growth=develop lasting=last
permanent=lasting forever=always=eternal alone=lonely=single bored=boring=boredom addicted=addiction depressed=depression=sad anxious=anxiety=nervous
stress=tension=stressed shy=shyness confident=confidence lazy=laziness procrastinate=procrastination motivated=motivation=inspire=inspiration
focus=concentrate=concentration remember=memorize=memory rude=mean=impolite polite=courteous crime=criminal=offense rape=assault abuse=harass
alien=extraterrestrial=aliens=ufo universe=cosmos=space planet=world earth=world moon=lunar sun=solar star=stars ghost=spirit=paranormal
dream=dreams=nightmare successful=success=succeed rate=percentage=ratio approach=strategy strategy=plan plan=strategy=scheme scheme=program
feature=characteristic=attribute=property property=characteristic trait=quality=characteristic quality=characteristics element=factor=component
necessary=essential surgical=surgery operate=operation=surgery=run run=operate=execute execute=launch=perform perform=do=carry cheap=inexpensive=affordable=budget
expensive=costly=pricey adult=grown update=upgrade upset=sad=unhappy horny=aroused honest=honorable teen=youth=young athlete=sportsman meaningless=pointless happiness=enjoyment=joy teen=teenager=teens=teenage=adolescent elderly=old=senior newbie=beginner=novice beginner=start=basics
advanced=expert famous=wellknown maximum=highest=most=max minimum=lowest=least=min majority=most main=major=primary=principal=chief=key average=mean=typical
correct=right=accurate=proper wrong=incorrect=bad=false accurate=exact=precise perfect=ideal=best suitable=appropriate=good=best=right ideal=best
proper=right=correct fine=okay=ok=good ok=alright normal=ordinary=regular=usual common=usual=frequent rare=uncommon=unusual special=unique=particular
unique=different legit=legitimate=real=genuine=trustworthy scam=fraud=fake reliable=trustworthy=dependable trust=believe=reliable worth=worthy=good=value
travel=traveling=visit flight=fly ticket=pass luggage=baggage hotel=accommodation=stay tourist=tourism=visit flatmate=roommate apartment=flat elevator=lift
trash=garbage=rubbish=waste faucet=tap truck=lorry pants=trousers sweater=jumper autumn=fall zip=postal colour=color favourite=favorite centre=center
organise=organize realise=realize behaviour=behavior programme=program cheque=check grey=gray tyre=tire licence=license defence=defense labour=labor
neighbour=neighbor humour=humor flavour=flavor analyse=analyze maths=mathematics theatre=theater jewellery=jewelry aluminium=aluminum metre=meter litre=liter
bp=pressure hr=hours hrs=hours mins=minutes secs=seconds temp=temperature max=maximum min=minimum avg=average approx=about dept=department
mgmt=management govt=government=gov admin=administrator config=configuration=settings=setup setup=configure=install=configuration doc=document=docs=documentation
docs=documentation manual=guide=handbook=instructions guide=tutorial tutorial=lesson=course dev=developer env=environment repo=repository
lib=library pkg=package msg=message pwd=password=passwd img=image vid=video tel=telephone addr=address str=string int=integer
ssn=security appt=appointment asap=immediately uni=university lab=laboratory rep=representative ceo=chief hdd=drive disk=drive=storage ssd=drive
os=system ui=interface js=javascript py=python postgres=postgresql k8s=kubernetes ipad=tablet pill=tablet=capsule dosage=dose vaccine=vaccination=shot=jab
flu=influenza covid=coronavirus=corona allergy=allergic fever=temperature vomit=throw=puke pee=urine=urinate poop=stool=feces=bowel blood=bleeding
"""

QUESTION = (  # first match in the text; every pattern is tried in this order
    (r"how (?:much )?(?:long|many (?:days|weeks|months|years|hours|minutes|seconds))|how much time|(?:what is the|what) duration", "how long"),
    (r"how many|(?:what|which) (?:is the )?(?:total )?number of|how much (?:people|of the population)", "how many"),
    (r"how old|(?:at )?what age|what is the age", "how old"),
    (r"how often|how frequently|how many times", "how often"),
    (r"how far|what is the distance|what distance", "how far"),
    (r"how (?:tall|high|deep|wide|heavy|large|big|fast|hot|cold|strong)\b", "how big"),
    (r"how much|how expensive|what is the (?:price|cost)|what does it cost|what do .{1,40} cost", "how much"),
    (r"how come|why|(?:what|which) (?:is|are|was|were|could be|can be|might be)(?: the| some)?(?: \w+)? (?:reasons?|causes?)|for what reason|what makes?"
     r"|what causes?|what caused|what reasons?|what for", "why"),
    (r"(?:at |in |on )?(?:what|which) (?:time|date|year|month|day|week|century)\b"
     r"|when(?= (?:is|are|was|were|do|does|did|will|would|should|shall|can|could|has|have|had|may|might|to|exactly)\b|$)", "when"),
    (r"(?:in |at |from )?(?:what|which) (?:places?|country|city|location|site|website|shops?|stores?)\b|what (?:is|are) (?:the |some )?(?:\w+ )?"
     r"(?:places?|locations?|sites?|websites?)|where|whence", "where"),
    (r"(?:what|which) (?:person|people|man|woman|actor|author|player|president)\b|whom?|whose", "who"),
    (r"(?:what|which) (?:is|are|would be|will be|could be|can be)?(?: ?(?:the|some|a|an|any|your))?(?: \w+){0,2}? ?(?:ways?|methods?|steps?|tips?|procedures?|process|tricks?|strategy)"
     r"|is there (?:any|a|some)(?: \w+)? ways?|are there any ways?|what (?:should|can|do|could|must) (?:i|we|you|one) do|steps? (?:to|for)"
     r"|ways? (?:to|of)|tips (?:to|for|on)|how", "how"),
    (r"what|which", "what"),
)

PADDING_BEFORE = (
    r"(?:hi|hello|hey|hiya|howdy|greetings|good (?:morning|afternoon|evening|day)|dear (?:sir|madam|all|team|assistant))"
    r"(?: (?:there|all|everyone|everybody|team|guys|folks|friends?|sir|madam|again|bot|assistant|sir or madam))?(?= *[,.!:;\n-]| (?:i|can|could|what|how|why|when"
    r"|where|who|which|is|are|do|does|please|just|quick|would|will|should)\b|$)",
    r"(?:just )?(?:a |one )?(?:quick|short|small|simple|stupid|dumb|silly|another)(?: \w+)? question(?: (?:for you|here|about this))?(?= *[,.!:;?\n-])",
    r"(?:i have|i've got|i got|here is|here's) (?:a|one|another|this)(?: \w+)? question(?: (?:for you|here))?(?= *[,.!:;?\n-])",
    r"(?:i was |i am |i'm |im |was |just )?(?:just )?wondering(?: (?:if|whether) (?:you|anyone|someone|somebody) (?:could|can|would|might)(?: please)?"
    r" (?:tell me|explain(?: to me)?|help me(?: understand)?|let me know))?(?: about)?(?: if| whether)?",
    r"(?:so|ok|okay|well|um|uh|hmm|now|alright|right|look|listen)(?= *,| (?:i|can|what|how|why|when|where|who|which|is|are|do|does)\b)",
    r"(?:could|can|would|will) (?:you|someone|anyone|somebody|anybody)(?: please| kindly| possibly| maybe| perhaps| just)? (?:tell (?:me|us)|explain(?: to (?:me|us))?"
    r"|help me (?:to )?(?:understand|find out|figure out)|let me know|advise(?: me)?|show me|clarify|describe)(?: please)?(?: (?:if|whether|about))?",
    r"(?:please|kindly|pls|plz)(?: can you| could you)?(?: (?:tell|inform) (?:me|us)| let me know| explain(?: to (?:me|us))?)?(?: if| whether)?",
    r"tell (?:me|us)(?: please)?(?: if| whether)?",
    r"(?:do you|does anyone|does anybody|does someone|do you guys|would you|do any of you)(?: happen to)? know(?: if| whether|(?= (?:how|what|why|when|where|who|which)\b))",
    r"(?:any idea|any clue|can i ask|may i ask|could i ask|let me ask|i wanted to ask|i want to ask|i would like to ask|i'd like to ask)(?: you)?(?: if| whether)?",
    r"(?:i|we) (?:want|wanted|would like|need|wish|would love|am trying|'d like) to (?:know|find out|learn|understand)(?: if| whether)?",
    r"i'd like to (?:know|find out|learn|understand)(?: if| whether)?",
    r"(?:excuse me|sorry (?:to (?:bother|disturb) you|for (?:bothering|disturbing) you)|sorry|pardon me|forgive me|i hope you are (?:well|fine)"
    r"|i hope this is the right place)(?: but)?(?= *[,.!:;-]| but\b)",
    r"(?:i am|i'm|im) (?:curious|not sure|unsure|confused)(?: about)?(?: if| whether)?(?= (?:how|what|why|when|where|who|which)\b| *[,:])",
    r"(?:i do not|i don't|i dont) (?:know|understand)(?= (?:how|what|why|when|where|who|which)\b)",
    r"(?:in your opinion|according to you|for you|as far as you know|out of curiosity|just curious|seriously|honestly|basically)(?= *,)",
)
PADDING_AFTER = (
    r"(?:many )?(?:thanks|thank you|thank u|thx|ty|cheers|tia)(?: (?:in advance|a lot|so much|very much|a bunch|a million|again|for your help|for any help"
    r"|for the help|for helping|everyone|guys|all))*",
    r"(?:please|pls|plz)(?: (?:help|advise|explain|tell me|let me know|answer|suggest|reply))?(?: me| us)?",
    r"(?:any (?:ideas?|help|tips|suggestions|advice|thoughts|clue)(?: (?:is|are|would be|will be))?(?: (?:much |greatly )?(?:appreciated|welcome))?)",
    r"(?:i (?:would|'d) (?:appreciate|be grateful)[^.?!]{0,60}|help(?: me)?(?: out)?(?= *[!.]+$)|let me know|can you help(?: me)?(?: with (?:this|that))?|best regards"
    r"|kind regards|regards|best|have a (?:nice|good|great) day|if you (?:know|can|could)|do you know|anyone know|anybody know|just curious|just wondering|asap)",
    r"(?:isn't it|is it not|aren't they|doesn't it|right|correct|in your opinion|according to you)(?= *\?*$)",
)
